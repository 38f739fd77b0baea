"""How well a gazetteer finds companies: precision, recall and F1 on annotated texts."""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.files import read_rows
from pipeline.gazetteer.load import Company
from pipeline.gazetteer.match import Gazetteer, Span, Thresholds
from schemas.errors import UsageError

# A mention in a text, or a ticker of it.
Item = tuple[int, int] | str
_CASHTAGS = re.compile(r"\$[A-Za-z]\w*(?:[.-][A-Za-z]{1,2})?")
# What each threshold may be, tried one after the other.
_CHOICES: dict[str, tuple[float, ...]] = {
    "needed": (1, 2, 3, 4),
    "code": (2, 3, 4, 5, 99),
    "window": (3, 5, 8, 12),
    "within": (0, 1, 2),
    "cased": (0.3, 0.5, 0.7),
}


class Text(Struct, frozen=True):
    """A text with what it speaks of: spans where the rows have them, otherwise tickers."""

    text: str
    spans: tuple[tuple[int, int], ...] | None
    tickers: frozenset[str] = frozenset()


class Figures(Struct):
    """Of mentions found, expected, and both; `known` are those whose name stands in the gazetteer."""

    precision: float
    recall: float
    f1: float
    found: int
    expected: int
    both: int
    known_recall: float
    known: int


class Evaluation(Struct):
    """Exact: the same ends. Overlap: any letter in common. For rows with tickers only, both are of tickers."""

    n: int
    half: str
    of: str
    exact: Figures
    overlap: Figures
    without_cashtags: Figures | None
    texts_per_s: float
    thresholds: Thresholds


def read_texts(path: str) -> list[Text]:
    """Rows with `text`, and `entities` (a list of spans, or names to labels) or `tickers`.

    Raises:
        UsageError: the file cannot be read, or has rows without them.
    """
    return [_text(path, number, row) for number, row in enumerate(read_rows(path), 1)]


def _text(path: str, number: int, row: dict[str, Any]) -> Text:
    text, given, tickers = row.get("text"), row.get("entities"), row.get("tickers")
    if isinstance(text, str) and isinstance(given, dict):
        return Text(text, _places(text, list(given)))
    if isinstance(text, str) and isinstance(given, list) and all(isinstance(each, dict) for each in given):
        try:
            return Text(text, tuple(sorted((int(each["start"]), int(each["end"])) for each in given)))
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"{path}, line {number}: an entity has no start and end") from None
    if isinstance(text, str) and isinstance(tickers, list):
        return Text(text, None, frozenset(str(each).upper().replace("-", ".") for each in tickers))
    raise UsageError(
        f"{path}, line {number}: give text, and entities (spans, or names with labels) or tickers (a list)"
    )


def _places(text: str, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where the names stand, the longer one where two overlap."""
    spans: list[tuple[int, int]] = []
    for name in sorted(names, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            if all(match.end() <= start or end <= match.start() for start, end in spans):
                spans.append(match.span())
    return tuple(sorted(spans))


def halves(texts: Iterable[Text]) -> tuple[list[Text], list[Text]]:
    """By a hash of the text: those that may choose, and those that are reported."""
    chosen: tuple[list[Text], list[Text]] = ([], [])
    for each in texts:
        chosen[hashlib.sha256(each.text.encode()).digest()[0] % 2].append(each)
    return chosen


def choose(companies: Sequence[Company], texts: Sequence[Text], start: Thresholds) -> Thresholds:
    """The thresholds with the best F1 on these texts: each in its turn, twice around."""
    best, score = start, _f1(companies, texts, start)
    for _, (name, values) in product(range(2), _CHOICES.items()):
        for value in values:
            tried = msgspec.structs.replace(best, **{name: value})
            if tried != best and (reached := _f1(companies, texts, tried)) > score:
                best, score = tried, reached
    return best


def _f1(companies: Sequence[Company], texts: Sequence[Text], thresholds: Thresholds) -> float:
    return evaluate(Gazetteer(companies, thresholds), texts).exact.f1


def evaluate(gazetteer: Gazetteer, texts: Sequence[Text], half: str = "all") -> Evaluation:
    """Compare what the gazetteer finds with what the rows say."""
    if not texts:
        raise UsageError("there are no rows to evaluate on")
    begin = time.process_time()
    found = [gazetteer.find(each.text) for each in texts]
    took = max(time.process_time() - begin, 1e-9)
    spans = all(each.spans is not None for each in texts)
    has = gazetteer.knows
    if spans:
        exact = _compare(texts, found, has, lambda one, two: one == two)
        overlap = _compare(texts, found, has, lambda one, two: one[0] < two[1] and two[0] < one[1])
        without = None
    else:
        exact = overlap = _compare_tickers(texts, found, gazetteer)
        bare = [msgspec.structs.replace(each, text=_CASHTAGS.sub(" ", each.text)) for each in texts]
        without = _compare_tickers(bare, [gazetteer.find(each.text) for each in bare], gazetteer)
    rate = len(texts) / took
    of = "spans" if spans else "tickers"
    return Evaluation(len(texts), half, of, exact, overlap, without, rate, gazetteer.thresholds)


def _compare(
    texts: Sequence[Text],
    found: Sequence[Sequence[Span]],
    has: Callable[[str], bool],
    same: Callable[[tuple[int, int], tuple[int, int]], bool],
) -> Figures:
    right = hit = expected = known = known_hit = 0
    for each, spans in zip(texts, found, strict=True):
        places = [(span.start, span.end) for span in spans]
        right += sum(any(same(place, truth) for truth in each.spans or ()) for place in places)
        for truth in each.spans or ():
            met = any(same(place, truth) for place in places)
            is_known = has(each.text[truth[0] : truth[1]])
            expected, hit = expected + 1, hit + met
            known, known_hit = known + is_known, known_hit + (met and is_known)
    return _figures(right, sum(map(len, found)), hit, expected, known_hit, known)


def _compare_tickers(texts: Sequence[Text], found: Sequence[Sequence[Span]], gazetteer: Gazetteer) -> Figures:
    both = count = expected = known = 0
    for each, spans in zip(texts, found, strict=True):
        tickers = {span.ticker.upper().replace("-", ".") for span in spans if span.ticker}
        both += len(tickers & each.tickers)
        count += len(tickers)
        expected += len(each.tickers)
        known += sum(gazetteer.knows(ticker) for ticker in each.tickers)
    return _figures(both, count, both, expected, both, known)


def _figures(right: int, found: int, hit: int, expected: int, known_hit: int, known: int) -> Figures:
    precision = right / found if found else 0.0
    recall = hit / expected if expected else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Figures(precision, recall, f1, found, expected, hit, known_hit / known if known else 0.0, known)
