"""What a scorer says of one text."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from schemas.labels import Decision


class Word(NamedTuple):
    """One word of the text and the share of a head's attention that sat on it."""

    text: str
    weight: float


class HeadResult(msgspec.Struct, frozen=True):
    """One head's answer: label, its probability, what to make of it, and the words that made it.

    `words` holds the strongest words only, strongest first; weights are shares of the whole text (0 to 1).
    """

    label: str
    probability: float
    decision: Decision = "label"
    words: list[Word] = []


class Score(msgspec.Struct, frozen=True):
    """All heads of one text, from one encoder pass.

    `embedding` is the L2-normalised sentence vector as int8, one byte a dimension;
    `embedding * scale` gives the floats back. Empty when the bundle has no embedding.
    """

    heads: Mapping[str, HeadResult]
    embedding: bytes = b""
    scale: float = 0.0
    tokens: int = 0
    truncated: bool = False
