"""What a scorer says of one text."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from schemas.labels import Decision


class Word(NamedTuple):
    """One word of the text and the share of a head's attention that sat on it."""

    text: str
    weight: float


class Answer(msgspec.Struct, frozen=True):
    """One label, its probability, what to make of it, and the words that made it.

    `words` holds the strongest words only, strongest first; weights are shares of the whole text (0 to 1).
    """

    label: str
    probability: float
    decision: Decision = "label"
    words: list[Word] = []


class EntityResult(msgspec.Struct, frozen=True):
    """One entity that the model found: [start, end) in characters of the text as the model reads it (links out,
    white space folded), its type, how sure that is, and what the heads for spans say of it, by head.
    """

    text: str
    start: int
    end: int
    type: str
    probability: float
    heads: Mapping[str, Answer] = {}


class HeadResult(Answer, frozen=True):
    """One head's answer for a text.

    A head that finds entities names the type of its surest one, or decides `none`, and lists them.
    """

    entities: list[EntityResult] | UnsetType = UNSET


class Score(msgspec.Struct, frozen=True):
    """All heads of one text, from one encoder pass.

    `embedding` is the L2-normalised sentence vector as int8, one byte a dimension;
    `embedding * scale` gives the floats back. Empty when the bundle has no embedding. `truncated_share` is the
    part of the text's characters that the model did not read.
    """

    heads: Mapping[str, HeadResult]
    embedding: bytes = b""
    scale: float = 0.0
    tokens: int = 0
    truncated: bool = False
    truncated_share: float = 0.0
