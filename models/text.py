"""How a text is cleaned before it is tokenised; the same for training, export and serving."""

import re
from collections.abc import Sequence
from functools import lru_cache

from schemas.errors import BundleError

# The steps that `normalise` takes, in their order, as a manifest lists them under `normalisation`.
NORMALISATION = ("strip-urls", "fold-whitespace")

_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_RUN = re.compile(r"\S+")

# Shapes of words: what an encoder without capitals cannot see. 0 is no word; glued to the word before, +`_FREE`.
_FREE = 9
SHAPES = 1 + 2 * _FREE


def normalise(text: str) -> str:
    """Take URLs out and fold each run of white space into one space; doing it twice changes nothing."""
    return " ".join(_URL.sub(" ", text).split())


def normalise_spans(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int] | None]]:
    """The normalised text, and where each [start, end) of the given text lies in it; None if nothing is left."""
    blanked = _URL.sub(lambda found: " " * len(found.group()), text)
    runs = [found.span() for found in _RUN.finditer(blanked)]
    starts: list[int] = []
    length = 0
    for start, end in runs:
        starts.append(length)
        length += end - start + 1
    moved: list[tuple[int, int] | None] = []
    for start, end in spans:
        inside = [
            (new + max(start, old) - old, new + min(end, stop) - old)
            for new, (old, stop) in zip(starts, runs, strict=True)
            if old < end and start < stop
        ]
        moved.append((inside[0][0], inside[-1][1]) if inside else None)
    return " ".join(blanked[start:end] for start, end in runs), moved


@lru_cache(maxsize=65_536)
def word_shape(word: str, glued: bool) -> int:
    """The shape of a word, from 1 to `SHAPES` - 1: case, digits, symbols, and whether a space stands before it."""
    return _shape(word) + (_FREE if glued else 0)


def _shape(word: str) -> int:
    letters = [letter for letter in word if letter.isalpha()]
    digits = any(letter.isdigit() for letter in word)
    if not letters:
        return 6 if digits else 8
    if digits:
        return 7
    if word.islower():
        return 1
    if word.isupper():
        return 4 if len(letters) == 1 else 3
    if word[:1].isupper() and word[1:].islower():
        return 2
    return 5 if word.lower() != word else 9


def require_known(steps: tuple[str, ...], where: str) -> None:
    """Refuse a bundle whose texts were normalised in another way than this version does it.

    Raises:
        BundleError: the steps are not `NORMALISATION`.
    """
    if steps != NORMALISATION:
        raise BundleError(
            f"{where} asks for the text normalisation {list(steps)}, and this version of Salience knows only "
            f"{list(NORMALISATION)}; train the bundle anew or use the version of Salience that made it."
        )
