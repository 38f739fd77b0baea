"""Labelled texts for training: read, mapped to the label sets, and split so that no text stands on two sides."""

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from models.text import normalise
from schemas.errors import UsageError
from schemas.labels import SENTIMENTS, TOPICS

Split = Literal["train", "validation", "calibration", "test"]

# Upper bounds in percent of the hash range: 70 train, 10 each for the others.
_CUTS: tuple[tuple[int, Split], ...] = ((70, "train"), (80, "validation"), (90, "calibration"), (100, "test"))
_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set: the folder it lies in, whose head it trains, and what its labels are called there."""

    folder: str
    head: str
    labels: tuple[str, ...]
    public_name: str
    licence: str
    renamed: Mapping[str, str] = field(default_factory=dict, hash=False)


SOURCES = (
    Source(
        "fin_tweets_sentiment",
        "sentiment",
        SENTIMENTS,
        "zeroshot/twitter-financial-news-sentiment",
        "MIT",
        {"bearish": "negative", "bullish": "positive"},
    ),
    Source("fin_tweets_topic", "topic", TOPICS, "zeroshot/twitter-financial-news-topic", "MIT"),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts, normalised, and the number of the label of each."""

    texts: list[str]
    labels: list[int]


class _Row(msgspec.Struct):
    text: str
    label: str


def read_splits(folder: Path, source: Source) -> dict[Split, Rows]:
    """Read every JSONL file of a source and split its rows by a hash of the text.

    Of texts that differ in URL, case or punctuation only, the first is kept, so that a repeat counts once and
    never stands on two sides; as the hash is of the text alone, two sources split a common text alike.

    Args:
        folder: holds the folder of the source, with files `*.jsonl` or `*.jsonl.gz`, rows `{"text", "label"}`.

    Raises:
        UsageError: there are no files, or a row is not as it should be.
    """
    splits: dict[Split, Rows] = {name: Rows([], []) for _, name in _CUTS}
    seen: set[str] = set()
    renamed = {**{label: label for label in source.labels}, **source.renamed}
    for where, row in _read(folder / source.folder):
        if row.label not in renamed:
            raise UsageError(
                f"{where} has the label {row.label!r}, and {source.public_name} knows only "
                f"{', '.join(renamed)}; mend the row."
            )
        key = identity(row.text)
        if key and key not in seen:
            seen.add(key)
            rows = splits[split_of(key)]
            rows.texts.append(normalise(row.text))
            rows.labels.append(source.labels.index(renamed[row.label]))
    return splits


def identity(text: str) -> str:
    """What makes two texts one: letters and digits, in lower case, URLs left out."""
    return _NEITHER_LETTER_NOR_DIGIT.sub(" ", normalise(text).lower()).strip()


def split_of(key: str) -> Split:
    """The side on which a text stands, from 64 bits of a hash of its identity."""
    number = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return next(name for bound, name in _CUTS if number % 100 < bound)


def _read(folder: Path) -> Iterator[tuple[str, _Row]]:
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not files:
        raise UsageError(f"There is no JSONL file in {folder}; put the data set there, rows with text and label.")
    for path in files:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield f"{path}, line {number},", msgspec.json.decode(line, type=_Row)
                except msgspec.MsgspecError as error:
                    raise UsageError(
                        f"{path}, line {number}, is no row of text and label: {error}; mend it."
                    ) from error
