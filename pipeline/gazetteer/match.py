"""Where a text speaks of companies: names and tickers on word boundaries, what is only a word left out."""

import re
from collections.abc import Iterable, Sequence

import ahocorasick
import msgspec
from msgspec import Struct

from pipeline.gazetteer.context import begins, evidence, is_part_of_name, sentence_at
from pipeline.gazetteer.load import Company, read_companies
from pipeline.gazetteer.names import LEGAL, forms, is_common, lowered, plain, without_suffix, words_of

# $AAPL, $BRK.B; not US$5 nor U$D.
_CASHTAG = re.compile(r"(?<![\w$])\$([A-Za-z][A-Za-z0-9]{0,9}(?:[.-][A-Za-z]{1,2})?)(?!\w)")
# NASDAQ: AAPL, with or without brackets.
_LISTED = re.compile(
    r"(?<!\w)\(?(?:NASDAQ|Nasdaq|NYSE|NYSE American|AMEX|OTC|OTCMKTS|LSE|LON|TSX|NSE|BSE|ASX)(?:-?[A-Z]{2})?"
    r"\s?:\s?([A-Z][A-Z0-9]{0,9}(?:[.-][A-Z]{1,2})?)(?!\w)\)?"
)
# <AAPL.O>, as Reuters writes; these exchanges are those where the code before the dot is the ticker.
_REUTERS = re.compile(r"<([A-Z][A-Z0-9]{0,9}[a-z]?)\.(?:N|O|OQ|K|P|A|PK|NS|BO)>")
# A word in capital letters, which may be a ticker.
_CAPITALS = re.compile(r"(?<![\w$&.'<-])[A-Z][A-Z0-9&-]{0,9}[A-Z0-9](?![\w&$]|\.\w)")
# What stands between a company and the ticker that belongs to it: "Apple Inc (NASDAQ: AAPL)".
_GAP = re.compile(r"(?:'s)?[\s(,.]{0,3}")
# Letters of a name, at least.
_SHORTEST = 2
# Everyday words that stand together, all capitalised, only in a name.
_PROOF = 3
# Words that stay in lower case within a name.
_SMALL = frozenset(("a", "an", "and", "at", "by", "de", "for", "in", "of", "on", "the", "to"))


class Thresholds(Struct, frozen=True):
    """When a name that may be a word counts; chosen by `salience entities evaluate --choose`."""

    # Words looked at on each side.
    window: int = 5
    # Evidence for a name whose capital letter proves nothing.
    needed: int = 2
    # Evidence for a capitalised common word within a sentence.
    within: int = 0
    # Letters from which a bare ticker, in capitals and no common word, counts without evidence.
    code: int = 3
    # Share of a sentence's longer words in lower case from which its capital letters mean something.
    cased: float = 0.5


class Span(Struct, frozen=True):
    """A mention: [start, end) of the text, and whose it is."""

    start: int
    end: int
    text: str
    name: str
    ticker: str | None


class _Surface(Struct, frozen=True):
    """A way of writing a company. `word`: the file has it in lower case; `code`: in capitals, like a ticker.

    `common`: made of everyday words; `proof`: of so many, or with a legal suffix, that capitals suffice.
    """

    company: int
    length: int
    common: bool = False
    proof: bool = False
    word: bool = False
    code: bool = False
    # It stands in the column of tickers and is no name.
    ticker: bool = False


class _Found(Struct):
    start: int
    end: int
    surface: _Surface
    # Decided for good, by a form that only tickers have.
    sure: bool = False


class Gazetteer:
    """Finds companies in texts. Immutable, safe from several threads."""

    def __init__(self, companies: Sequence[Company], thresholds: Thresholds = Thresholds()) -> None:  # noqa: B008
        self.companies = tuple(companies)
        self.thresholds = thresholds
        self._tickers: dict[str, int] = {}
        self._codes: dict[str, _Surface] = {}
        surfaces: dict[str, _Surface] = {}
        for index, company in enumerate(self.companies):
            if company.ticker is not None:
                ticker = company.ticker.upper().replace("-", ".")
                self._tickers[ticker] = index
                common = is_common(ticker)
                self._codes[company.ticker.upper()] = _Surface(index, len(ticker), common, code=True, ticker=True)
        for index, company in enumerate(self.companies):
            for form in _forms(company):
                key, new = lowered(plain(form)), _surface(index, form)
                old = surfaces.setdefault(key, new)
                if old is not new and old.company == index:
                    # Written in more than one way: none of them is demanded.
                    surfaces[key] = msgspec.structs.replace(
                        old, word=old.word or new.word, code=old.code and new.code
                    )
        self.ambiguous = sorted(
            key for key, each in surfaces.items() if each.common and not (each.word or each.proof)
        )
        self._names = ahocorasick.Automaton()
        for key, surface in surfaces.items():
            self._names.add_word(key, surface)
            if "&" in key:
                twin = key.replace("&", "&amp;")
                self._names.add_word(twin, msgspec.structs.replace(surface, length=len(twin)))
        if surfaces:
            self._names.make_automaton()
        self._surfaces = surfaces

    def find(self, text: str) -> list[Span]:
        """The mentions in the order of the text, none overlapping another."""
        flat = plain(text)
        certain = _tickers_in(flat, self._tickers) if "$" in flat or ":" in flat or "<" in flat else []
        found = certain + self._candidates(flat)
        if not found:
            return []
        chosen = self._decided(flat, _longest(found))
        return [self._span(text, each) for each in chosen]

    def knows(self, name: str) -> bool:
        """Whether the file has this name or ticker, however it is written."""
        key = lowered(plain(without_suffix(name)))
        return key in self._surfaces or lowered(plain(name)) in self._surfaces or name in self._codes

    def _candidates(self, flat: str) -> list[_Found]:
        found = []
        low = lowered(flat)
        size = len(low)
        if self._surfaces:
            for last, surface in self._names.iter(low):
                start, end = last + 1 - surface.length, last + 1
                # On word boundaries; neither within an address nor a handle.
                if (start and (low[start - 1].isalnum() or low[start - 1] in "_@$/")) or (
                    end < size and (low[end].isalnum() or low[end] == "_")
                ):
                    continue
                if end + 1 < size and low[end] in ".@" and low[end + 1].isalnum():
                    continue
                found.append(_Found(start, end, surface))
        for match in _CAPITALS.finditer(flat):
            code = self._codes.get(match[0])
            if code is not None:
                found.append(_Found(match.start(), match.end(), code))
        return found

    def _decided(self, flat: str, found: list[_Found]) -> list[_Found]:
        """Those that are companies: first what proves itself, then what the rest of the text speaks for."""
        kept, open_ = [], []
        for each in found:
            verdict = True if each.sure else self._by_itself(flat, each)
            if verdict:
                kept.append(each)
            elif verdict is None:
                open_.append(each)
        named = {each.surface.company for each in kept}
        kept += [each for each in open_ if self._in_context(flat, each, each.surface.company in named)]
        kept.sort(key=_start)
        return _without_doubles(flat, kept)

    def _by_itself(self, flat: str, each: _Found) -> bool | None:
        """True or False where no context is needed, None where it is."""
        surface, written = each.surface, flat[each.start : each.end]
        if surface.word:
            return True
        if surface.code:
            return None if written.replace("&amp;", "&").isupper() else False
        if surface.common:
            return False if not _is_capitalised(written) else True if surface.proof else None
        if _is_capitalised(written) or any(letter.isupper() or letter.isdigit() for letter in written):
            return True
        return None

    def _in_context(self, flat: str, each: _Found, named: bool) -> bool:
        """Whether a word or code that is written like a company is one. `named`: the text names it otherwise."""
        limits, surface, start, end = self.thresholds, each.surface, each.start, each.end
        if named or (not surface.ticker and _legal_end(flat, end) > end):
            return True
        if flat[end : end + 1] == "-" or flat[start - 1 : start] == "-":
            return False
        sentence = sentence_at(flat, start, end, limits.cased)
        if surface.code:
            if surface.common and surface.ticker:
                return False
            if not (sentence.shouted or surface.common) and surface.length >= limits.code:
                return True
            return evidence(flat, sentence, start, end, limits.window) >= limits.needed
        needed = limits.needed
        if sentence.cased and flat[start].isupper():
            if is_part_of_name(flat, sentence, start, end):
                return False
            # Only the first word of a sentence owes its capital letter to its place.
            if " " in flat[start:end] or not begins(flat, sentence, start):
                needed = limits.within
        elif flat[start - 1 : start] == " " and not begins(flat, sentence, start):
            # `Price Target Raised`: the word before may belong to it.
            needed += 1
        return evidence(flat, sentence, start, end, limits.window) >= needed

    def _span(self, text: str, each: _Found) -> Span:
        company = self.companies[each.surface.company]
        return Span(each.start, each.end, text[each.start : each.end], company.name, company.ticker)


def load_gazetteer(path: str, thresholds: Thresholds = Thresholds()) -> Gazetteer | None:  # noqa: B008
    """Read and check a file of companies; an empty path gives none.

    Raises:
        ConfigError: names file, line, and what to mend.
    """
    return Gazetteer(read_companies(path), thresholds) if path else None


def _forms(company: Company) -> Iterable[str]:
    for name in (company.name, *company.aliases):
        for form in forms(name):
            # The ticker among the aliases is the ticker.
            if len(form) >= _SHORTEST and not (form == company.ticker and form.isupper()):
                yield form


def _surface(company: int, form: str) -> _Surface:
    code = form.isupper() and " " not in form and len(form) <= 5
    proof = len(words_of(form)) >= _PROOF or without_suffix(form) != form
    word = form == form.lower() and any(letter.isalpha() for letter in form)
    return _Surface(company, len(form), is_common(form), proof, word, code)


def _tickers_in(flat: str, tickers: dict[str, int]) -> list[_Found]:
    found = []
    for pattern in (_CASHTAG, _LISTED, _REUTERS):
        for match in pattern.finditer(flat):
            code = match[1]
            if pattern is _REUTERS and code[-1].islower():
                code = f"{code[:-1]}.{code[-1]}"
            company = tickers.get(code.upper().replace("-", "."))
            if company is not None:
                surface = _Surface(company, match.end() - match.start(), code=True, ticker=True)
                found.append(_Found(match.start(), match.end(), surface, sure=True))
    return found


def _longest(found: list[_Found]) -> list[_Found]:
    """From left to right, the longest at each place; what a form of tickers proves comes first."""
    found.sort(key=lambda each: (each.start, -each.end, not each.sure))
    chosen: list[_Found] = []
    for each in found:
        if not chosen or each.start >= chosen[-1].end:
            chosen.append(each)
    return chosen


def _without_doubles(flat: str, found: list[_Found]) -> list[_Found]:
    """`Apple Inc (NASDAQ: AAPL)` is one mention: that of the name, with its legal suffix."""
    kept: list[_Found] = []
    for each in found:
        before = kept[-1] if kept else None
        if (
            before is not None
            and each.surface.ticker
            and not before.surface.ticker
            and before.surface.company == each.surface.company
            and _GAP.fullmatch(flat, _legal_end(flat, before.end), each.start)
        ):
            continue
        if not each.surface.ticker and not each.surface.word:
            each.end = _legal_end(flat, each.end)
        kept.append(each)
    return kept


def _legal_end(flat: str, end: int) -> int:
    """Where the legal suffixes behind a name end, a final dot left out."""
    if flat[end : end + 1] not in (" ", ","):
        return end
    match = LEGAL.match(flat, end)
    if match is None:
        return end
    return match.end() - (flat[match.end() - 1] == ".")


def _is_capitalised(written: str) -> bool:
    """Whether each word begins with a capital letter or a digit; small words behind the first need not."""
    words = written.split()
    return not words[0][0].islower() and all(not word[0].islower() or word in _SMALL for word in words)


def _start(each: _Found) -> int:
    return each.start
