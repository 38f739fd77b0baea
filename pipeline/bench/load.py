"""What the benchmark sends: distinct texts, and news events that carry them."""

import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from models.text import normalise
from pipeline.times import now, rfc3339
from schemas.errors import UsageError
from schemas.events import Line

# Order is kept by source, so sources spread events over partitions; with so many, nearly evenly.
_SOURCES = 512
_SECOND = 1_000_000
_PROSE = """
shares fell rose after the company cut raised its outlook for quarter year profit revenue demand sales
analysts expect that margins will narrow as costs of energy and labour keep growing while orders from
abroad remain weak central bank officials said rates could stay higher for longer than markets had hoped
investors sold bonds before a report on prices new deal talks with rival were called off board named
chief officer regulators opened an inquiry into accounts bank agreed to pay fine without admitting any
fault oil gold dollar slipped against euro traders took gains early trading supply of chips has improved
plant closes
"""
_WORDS = _PROSE.split()
_NAMES = ("Corvane", "Haldern", "Mirewell", "Ostrava Steel", "Pellgrave", "Quintmoor", "Ravensby", "Tollgate")


def made_texts(count: int, seed: int = 7) -> list[str]:
    """Distinct texts of about 32 tokens (22 to 36), the same for the same seed."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = [rng.choice(_NAMES), *rng.choices(_WORDS, k=rng.randint(18, 32)), str(rng.randrange(1000))]
        found[" ".join(words)] = None
    return list(found)


def texts_of(path: str, count: int) -> list[str]:
    """The first `count` distinct texts of a file: JSONL with `text`, or a text a line; plain or .gz.

    Raises:
        UsageError: the file cannot be read, or has no text.
    """
    found: dict[str, str] = {}
    try:
        with _open(path) as file:
            for line in file:
                text = _text(line)
                # Distinct for the model: links are no part of what it reads.
                if seen := normalise(text):
                    found.setdefault(seen, text)
                if len(found) >= count:
                    break
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"the file {path} cannot be read as text: {error}") from None
    if not found:
        raise UsageError(f"the file {path} holds no text; give JSON lines with `text`, or a text a line")
    return list(found.values())


def text_events(texts: Sequence[str], name: str) -> Iterator[Line]:
    """An event for each text; ids begin with `name`, so that two loads have no event in common."""
    return _named(({"text": text} for text in texts), name)


def news_events(count: int, name: str, seed: int = 11) -> Iterator[Line]:
    """News of about 300 bytes, as a wire sends them: title, text, link, entities, attributes."""
    rng = random.Random(seed)
    return _named((_article(rng) for _ in range(count)), name)


def _article(rng: random.Random) -> dict[str, Any]:
    company = rng.choice(_NAMES)
    return {
        "title": f"{company} {' '.join(rng.choices(_WORDS, k=6))}",
        "text": f"{company} {' '.join(rng.choices(_WORDS, k=14))} {rng.randrange(1000)}.",
        "language": "en",
        "entities": [company],
        "attributes": {"ticker": company[:4].upper(), "desk": "companies"},
    }


def _named(events: Iterable[dict[str, Any]], name: str) -> Iterator[Line]:
    begin = now() - 3600 * _SECOND
    for number, event in enumerate(events):
        source = f"wire-{number * 7919 % _SOURCES:03}"
        own = {"id": f"{name}-{number}", "source": source, "time": rfc3339(begin + number * 1000)}
        yield Line(number, msgspec.json.encode(own | event), source.encode())


def _open(path: str) -> IO[str]:
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    return Path(path).open(encoding="utf-8")


def _text(line: str) -> str:
    if line.lstrip().startswith("{"):
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return line.strip()
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            return str(row["text"]).strip()
    return line.strip()
