"""The scripted market day: what is sent, in which order, and what is to become of it."""

import random
from collections import Counter
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from pipeline.demo import faults, visits
from pipeline.demo.chat import conversations
from pipeline.demo.news import articles
from pipeline.files import KEYS
from pipeline.times import microseconds, rfc3339
from schemas.events import Line

SEED = 20250514
OPEN = microseconds(datetime(2025, 5, 14, 7, 30))
CLOSE = microseconds(datetime(2025, 5, 14, 17, 30))

# An event before it is sent: its stream, and its fields with `time` in microseconds.
Draft = tuple[str, dict[str, Any]]


class Entry(Struct, frozen=True):
    """One message to send. `time` is its moment of the market day in microseconds; `fate` what is expected."""

    stream: str
    time: int
    line: Line
    fate: faults.Fate = "stored"


class Scenario(Struct, frozen=True):
    """The whole day, in the order of sending."""

    entries: tuple[Entry, ...]

    @property
    def expected(self) -> Counter[str]:
        """How many of the messages are to be stored, repeated and dead."""
        return Counter(entry.fate for entry in self.entries)


@cache
def market_day() -> Scenario:
    """The day, the same in every run: no clock and no chance but the seed goes into it."""
    words, talks = _words("day.yaml"), _words("talks.yaml")
    rng = random.Random(SEED)
    published = articles(rng, words, OPEN, CLOSE)
    drafts: list[Draft] = [("news", article) for article in published]
    drafts += [("chat", turn) for turn in conversations(rng, talks, OPEN, CLOSE)]
    drafts += [("behavior", visit) for visit in visits.visits(rng, words, published, OPEN, CLOSE)]
    drafts.sort(key=lambda draft: draft[1]["time"])
    entries = [_entry(stream, number, event) for number, (stream, event) in enumerate(drafts)]
    entries += [Entry(fault.stream, fault.time, fault.line, fault.fate) for fault in faults.broken(OPEN)]
    entries += _again(rng, entries)
    # Sorting is stable, and a repeat is later than what it repeats: the first of both is the one that counts.
    return Scenario(tuple(sorted(entries, key=lambda entry: entry.time)))


def _entry(stream: str, number: int, event: dict[str, Any]) -> Entry:
    # Milliseconds make each moment unique, so that no two events without an id are equal by accident.
    time = event["time"] + number % 1000 * 1000
    value = msgspec.json.encode({**event, "time": rfc3339(time)})
    return Entry(stream, time, Line(number, value, event[KEYS[stream]].encode()))


def _again(rng: random.Random, entries: list[Entry]) -> list[Entry]:
    """Sent twice by a nervous producer, and one id used again for other content."""
    good = [entry for entry in entries if entry.fate == "stored"]
    repeats = [
        msgspec.structs.replace(entry, time=entry.time + rng.randrange(1, 600) * 1_000_000, fate="repeated")
        for entry in rng.sample(good, 24)
    ]
    news = next(entry for entry in good if entry.stream == "news" and b'"id"' in (entry.line.value or b""))
    return [*repeats, _conflict(news)]


def _conflict(entry: Entry) -> Entry:
    event = msgspec.json.decode(entry.line.value or b"")
    event["text"] = f"Correction: {event['text']}"
    line = msgspec.structs.replace(entry.line, value=msgspec.json.encode(event))
    return Entry(entry.stream, entry.time + 3_600_000_000, line, "dead")


def _words(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return loaded
