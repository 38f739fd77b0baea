"""Companies by a list of names: what a network for entities has to beat."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.data import Span
from models.rows import read_rows
from schemas.errors import UsageError

# Columns that hold names: one, a list of them, or several with bars between.
COLUMNS = ("company", "name", "names", "alias", "aliases")

_WORD = re.compile(r"\w+|[^\w\s]")
_LEGAL_FORM = re.compile(
    r"[\s,]+(?:\(.*\)|inc\.?|corp\.?|corporation|co\.?|company|ltd\.?|limited|plc|group|holdings?|s\.?a\.?|ag|n\.?v\.?)$",
    re.IGNORECASE,
)


class Gazetteer:
    """Finds names in texts: words as they are written, the longest name first, none within another."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, set[tuple[str, ...]]] = {}
        for name in names:
            words = tuple(_WORD.findall(name))
            # A name of one letter or of digits alone is a word of every text.
            if words and len(name) > 1 and not name.isdigit():
                self._names.setdefault(words[0], set()).add(words)
        self._longest = {first: max(map(len, names)) for first, names in self._names.items()}

    def find(self, text: str, kind: str) -> list[Span]:
        """The names in a text, as entities of one type."""
        places = [found.span() for found in _WORD.finditer(text)]
        words = [text[start:end] for start, end in places]
        found: list[Span] = []
        position = 0
        while position < len(words):
            known = self._names.get(words[position], set())
            most = min(self._longest.get(words[position], 0), len(words) - position)
            length = next((n for n in range(most, 0, -1) if tuple(words[position : position + n]) in known), 0)
            if length:
                found.append(Span(places[position][0], places[position + length - 1][1], kind))
            position += length or 1
        return found


def read_names(paths: Sequence[Path]) -> list[str]:
    """Names from the columns `COLUMNS` of JSON Lines or CSV, as they stand and without their legal form.

    Raises:
        UsageError: a file cannot be read, or has none of these columns.
    """
    found: dict[str, None] = {}
    for path in paths:
        before = len(found)
        for _, row in read_rows(path):
            for column in COLUMNS:
                for name in _names(row.get(column)):
                    found |= dict.fromkeys((name, short(name)))
        if len(found) == before:
            raise UsageError(f"{path} gives no names; name its column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}.")
    return list(found)


def short(name: str) -> str:
    """A company's name without its legal form: "Apple Inc." is Apple."""
    shorter = _LEGAL_FORM.sub("", name)
    return short(shorter) if shorter != name else name


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        value = value.split("|")
    each = value if isinstance(value, list) else []
    return [name.strip() for name in each if isinstance(name, str) and name.strip()]
