"""Whether the words that weigh most are those that decided: comprehensiveness and sufficiency, as in ERASER.

DeYoung et al. 2020. p is the calibrated probability of the label that was named for the whole text.
Comprehensiveness is how far p falls when the heaviest words are taken out (higher is better), sufficiency how far
it falls when only they are left (lower is better); both are means over the heaviest 1, 5, 10, 20 and 50 % of the
words, at least one. Words are taken out by deletion, and by putting [MASK] in the place of each of their
pieces. R rows, W words.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from models.bundle import GRAPH, TOKENIZER, Bundle, Head
from models.explain import Relevance
from models.graphs import Graphs
from models.interpret import Outputs, softmax
from models.rows import read_rows, required, text_of
from models.text import normalise
from models.tokens import Batch, TextTokenizer, cut_by_padded_tokens, words_of
from models.weights import word_weights
from schemas.errors import UsageError

SHARES = (0.01, 0.05, 0.10, 0.20, 0.50)
LEAST_WORDS = 6
# Random choices of words a row, whose mean is compared with.
DRAWS = 5
NONE = "none"

_RESAMPLES = 1000
_QUANTILES = (0.025, 0.975)
_BATCH_TOKENS = 1024
# Altered texts that are tokenised at a time.
_GROUP = 4096
_RANDOM = "random"

Order = NDArray[np.int64]
Removed = frozenset[int]
Report = Callable[[int, int], None]


class Reads(Protocol):
    """The part of `models.graphs.Graphs` that is needed here."""

    def texts(self, batch: Batch) -> Outputs:
        """`<head>.logits` [B, L] and `<head>.alpha` [B, T] of label heads."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A text that was labelled rightly: what was read of it, and its words by weight, the heaviest first.

    `orders` holds one order for each way of weighing, and one for each draw of `random`.
    """

    text: str
    encoding: Encoding
    places: list[tuple[int, int]]
    label: int
    chance: float
    orders: dict[str, list[Order]]


def faithfulness(
    bundle: Bundle,
    rows: Sequence[tuple[str, str]],
    head: str,
    *,
    limit: int = 0,
    draws: int = DRAWS,
    seed: int = 0,
    relevance: Relevance | None = None,
    runner: Reads | None = None,
    report: Report = lambda _done, _all: None,
) -> dict[str, Any]:
    """Measure a label head over the rows that it gets right and that have at least 6 words.

    Args:
        rows: text and label; labels that the head does not know are an error.
        head: name of a head of kind label.
        limit: rows drawn at most, 0 for all.
        draws: random choices of words for each row.
        relevance: a second way of weighing words, reported as `gradient`.
        runner: in place of the bundle's graphs on the CPU.
        report: called with the altered texts that are done, and their number.

    Returns:
        n (rows measured), rows, short, wrong, and for `deletion` and `masking` (None where the base has no mask):
        comprehensiveness and sufficiency, each with mean and 95 % interval of attention, random and perhaps
        gradient, and what the others are over random: ratio and difference with paired bootstrap intervals. The
        ratio and its interval are None where in some resample random words move nothing.

    Raises:
        UsageError: the bundle has no such head, or a row's label is none of it.
    """
    asked = label_head(bundle, head)
    _check(rows, asked)
    draw = np.random.default_rng(seed)
    if limit and limit < len(rows):
        rows = [rows[number] for number in sorted(draw.choice(len(rows), limit, replace=False).tolist())]
    tokenizer = TextTokenizer(bundle.path / TOKENIZER, bundle.manifest.max_length)
    reader = _Reader(runner or Graphs(bundle.path / GRAPH, None, "cpu", threads=0), tokenizer, asked, relevance)
    cases, short, wrong = reader.cases(rows)
    for case in cases:
        case.orders[_RANDOM] = [draw.permutation(len(case.places)) for _ in range(draws)]
    found: dict[str, Any] = {"head": head, "bundle": bundle.identity, "n": len(cases)}
    found |= {"rows": len(rows), "short": short, "wrong": wrong, "shares": list(SHARES), "draws": draws}
    if not cases:
        return found
    wanted = list(dict.fromkeys(_wanted(cases)))
    mask = tokenizer.mask
    ways = 1 if mask is None else 2
    deleted = reader.deleted(cases, wanted, lambda done: report(done, ways * len(wanted)))
    found["deletion"] = _figures(cases, dict(zip(wanted, deleted, strict=True)), seed)
    found["masking"] = None
    if mask is not None:
        masked = reader.masked(cases, wanted, mask, lambda done: report(len(wanted) + done, ways * len(wanted)))
        found["masking"] = _figures(cases, dict(zip(wanted, masked, strict=True)), seed)
    return found


def label_head(bundle: Bundle, name: str) -> Head:
    """A head that labels texts.

    Raises:
        UsageError: the bundle has none of this name.
    """
    heads = {head.name: head for head in bundle.manifest.heads if head.kind == "label"}
    if name not in heads:
        known = ", ".join(heads) or "none"
        raise UsageError(f"the bundle {bundle.identity} has no head {name!r} that labels texts; it has {known}")
    return heads[name]


def read_labelled(
    path: Path, head: Head, renamed: Mapping[str, str], text: str = "text", label: str = "label"
) -> list[tuple[str, str]]:
    """Text and label of a file's rows, without those that are renamed to "" or `none`.

    Raises:
        UsageError: the file cannot be read, or a label is neither the head's nor renamed to one of it.
    """
    found: list[tuple[str, str]] = []
    for where, row in read_rows(path):
        given = str(required(row, label, where))
        mapped = renamed.get(given, given)
        if mapped in ("", NONE):
            continue
        if mapped not in head.labels:
            raise UsageError(
                f"{where}, has the label {mapped!r}, and the head {head.name} knows {', '.join(head.labels)}; "
                f"say --label-map {given}=LABEL, or {given}=none to leave such rows out"
            )
        found.append((text_of(row, text, where), mapped))
    return found


def without(text: str, places: Sequence[tuple[int, int]], removed: Removed) -> str:
    """A text without some of its words; what stood on both sides of one stays apart."""
    parts: list[str] = []
    last = 0
    for number in sorted(removed):
        start, end = places[number]
        parts.append(text[last:start])
        last = end
    return " ".join(" ".join([*parts, text[last:]]).split())


class _Reader:
    """Asks one head about texts as they are, and about texts without some of their words."""

    def __init__(self, runner: Reads, tokenizer: TextTokenizer, head: Head, relevance: Relevance | None) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._head = head
        self._relevance = relevance

    def cases(self, rows: Sequence[tuple[str, str]]) -> tuple[list[_Case], int, int]:
        """The cases in the order of their rows, and how many rows were too short and how many wrong."""
        true = np.array([self._head.labels.index(label) for _, label in rows], np.int64)
        found: dict[int, _Case] = {}
        short = 0
        for batch in self._tokenizer.batches([normalise(text) for text, _ in rows], _BATCH_TOKENS):
            outputs = self._runner.texts(batch)
            chances = self._chances(outputs)
            best = chances.argmax(axis=1)  # [B]
            places = [words_of(encoding) for encoding in batch.encodings]
            enough = np.array([len(words) >= LEAST_WORDS for words in places], bool)
            short += int((~enough).sum())
            chosen = np.flatnonzero(enough & (best == true[batch.positions]))
            orders = self._orders(batch, outputs, chosen, best[chosen])
            for row, order in zip(chosen.tolist(), orders, strict=True):
                # Were what was cut off still there, it would come in for the words that go.
                text = batch.texts[row][: places[row][-1][1]]
                found[int(batch.positions[row])] = _Case(
                    text, batch.encodings[row], places[row], int(best[row]), float(chances[row, best[row]]), order
                )
        return [found[position] for position in sorted(found)], short, len(rows) - short - len(found)

    def deleted(
        self, cases: Sequence[_Case], wanted: Sequence[tuple[int, Removed]], report: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """The chance of each case's label when words are deleted: one for each of `wanted`."""
        found = np.empty(len(wanted))
        for first in range(0, len(wanted), _GROUP):
            group = wanted[first : first + _GROUP]
            texts = [without(cases[case].text, cases[case].places, removed) for case, removed in group]
            labels = np.array([cases[case].label for case, _ in group])
            for batch in self._tokenizer.batches(texts, _BATCH_TOKENS):
                chances = self._chances(self._runner.texts(batch))
                found[first + batch.positions] = chances[np.arange(len(chances)), labels[batch.positions]]
            report(first + len(group))
        return found

    def masked(
        self,
        cases: Sequence[_Case],
        wanted: Sequence[tuple[int, Removed]],
        mask: int,
        report: Callable[[int], None],
    ) -> NDArray[np.float64]:
        """The same when each piece of the words is replaced by the token `mask`."""
        found = np.empty(len(wanted))
        texts, encodings = [case.text for case in cases], [case.encoding for case in cases]
        which = np.array([case for case, _ in wanted], np.int64)
        lengths = np.array([len(encoding) for encoding in encodings])[which]
        order = np.argsort(lengths, kind="stable")
        for start, stop in cut_by_padded_tokens(lengths[order], _BATCH_TOKENS):
            mine = order[start:stop]
            batch = self._tokenizer.collate(texts, encodings, which[mine])
            for row, number in enumerate(mine.tolist()):
                hidden = np.isin(batch.word_numbers[row], list(wanted[number][1]))
                batch.input_ids[row, hidden] = mask
            chances = self._chances(self._runner.texts(batch))
            labels = np.array([cases[case].label for case in which[mine].tolist()])
            found[mine] = chances[np.arange(len(mine)), labels]
            report(stop)
        return found

    def _orders(
        self, batch: Batch, outputs: Outputs, chosen: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> list[dict[str, list[Order]]]:
        alpha = outputs[f"{self._head.name}.alpha"][chosen]
        ways = {"attention": word_weights(batch, chosen.tolist(), alpha)}
        if self._relevance is not None and len(chosen):
            tokens = self._relevance(batch, self._head.name, chosen, labels)
            ways["gradient"] = word_weights(batch, chosen.tolist(), tokens)
        return [
            {way: [np.argsort(-weights[line], kind="stable")] for way, weights in ways.items()}
            for line in range(len(chosen))
        ]

    def _chances(self, outputs: Outputs) -> NDArray[np.float32]:
        return softmax(outputs[f"{self._head.name}.logits"] / self._head.temperature)


def _removals(order: Order) -> Iterator[tuple[Removed, Removed]]:
    """For each share of the words, what goes when the heaviest go, and what when only they stay."""
    for share in SHARES:
        count = max(1, int(share * len(order) + 0.5))
        yield frozenset(order[:count].tolist()), frozenset(order[count:].tolist())


def _wanted(cases: Sequence[_Case]) -> Iterator[tuple[int, Removed]]:
    for number, case in enumerate(cases):
        for orders in case.orders.values():
            for order in orders:
                for pair in _removals(order):
                    yield from ((number, removed) for removed in pair)


def _figures(
    cases: Sequence[_Case], chances: Mapping[tuple[int, Removed], float], seed: int
) -> dict[str, dict[str, Any]]:
    falls: dict[str, list[list[float]]] = {}  # by way of weighing, [R] of comprehensiveness and sufficiency
    for number, case in enumerate(cases):
        for way, orders in case.orders.items():
            pairs = [
                [case.chance - chances[number, removed] for removed in pair]
                for order in orders
                for pair in _removals(order)
            ]
            falls.setdefault(way, []).append(np.mean(pairs, axis=0).tolist())
    table = {way: np.array(values) for way, values in falls.items()}  # [R, 2]
    return {
        name: compared({way: values[:, column] for way, values in table.items()}, seed)
        for column, name in enumerate(("comprehensiveness", "sufficiency"))
    }


def compared(values: Mapping[str, NDArray[np.float64]], seed: int = 0) -> dict[str, Any]:
    """Mean of each way of weighing, and of each but `random` its ratio to random and its difference from it.

    Intervals are 95 % percentile bootstrap (Efron 1979); ways are compared over the same resamples of rows.

    Args:
        values: by way, one value for each row [R]; `random` among them.
    """
    count = len(values[_RANDOM])
    draw = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {way: [] for way in values}
    for _ in range(_RESAMPLES):
        chosen = draw.integers(0, count, count)
        for way, mine in values.items():
            resampled[way].append(float(mine[chosen].mean()))
    drawn = {way: np.array(means) for way, means in resampled.items()}
    found: dict[str, Any] = {
        way: {"mean": _round(mine.mean()), "interval": _interval(drawn[way])} for way, mine in values.items()
    }
    random, by_chance = values[_RANDOM].mean(), drawn[_RANDOM]
    for way in values:
        if way != _RANDOM:
            # A quotient by what may as well be 0 says nothing, however large it is.
            certain = bool((by_chance > 0).all())
            found[f"{way}_over_random"] = {
                "ratio": _round(values[way].mean() / random) if certain else None,
                "interval": _interval(drawn[way] / by_chance) if certain else None,
                "difference": _round(values[way].mean() - random),
                "difference_interval": _interval(drawn[way] - by_chance),
            }
    return found


def _check(rows: Sequence[tuple[str, str]], head: Head) -> None:
    unknown = next((label for _, label in rows if label not in head.labels), None)
    if unknown is not None:
        raise UsageError(f"{unknown!r} is no label of {head.name}; it has {', '.join(head.labels)}")


def _interval(values: NDArray[np.float64]) -> list[float]:
    return [_round(value) for value in np.quantile(values, _QUANTILES)]


def _round(value: Any) -> float:
    return round(float(value), 4)
