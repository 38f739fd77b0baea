"""The event as the pipeline carries it, and where it came from."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from schemas.messages import BehaviorData, ChatData, Data, Entity, NewsData, headline

MICROSECONDS = 1_000_000
# The year 2201, in milliseconds. A producer may write anything into a timestamp, nanoseconds for example.
_LATEST_STAMP = 7_289_654_400_000


class Record(Protocol):
    """What is needed of a Kafka record; a line of a file is one too.

    `offset` is the record's place in its partition, `timestamp` the broker's time in milliseconds.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Line(Struct, frozen=True):
    """A record that did not come from Kafka."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Place(Struct, frozen=True):
    """A partition of one incarnation of a topic in one cluster; for a file: `file`, its name, its hash."""

    stream: str
    cluster: str
    topic: str
    incarnation: str
    partition: int
    origin: str = "live"
    run: str | None = None


class Dead(Struct, frozen=True):
    """A record that could not be used, and why; `event` is its source and id where they are known."""

    record: Record
    stage: str
    reason: str
    exception: str
    message: str
    attempts: int = 1
    event: str | None = None


class Chunk(Struct, frozen=True):
    """Successive records of one partition, handled together; those of `dead` are given up before they are read.

    `again`: a person lets dead letters through once more.
    """

    place: Place
    records: Sequence[Record]
    dead: Sequence[Dead] = ()
    again: bool = False


class Event(Struct):
    """One decoded event. Times are microseconds since 1970, UTC; hashes are 16 bytes."""

    stream: str
    source: str
    id: str
    time: int
    data: Data
    content_hash: bytes
    record: Record
    traceparent: str | None = None
    # Companies that its text speaks of; no part of its content.
    mentions: Sequence[dict[str, Any]] = ()

    @property
    def broker_time(self) -> int | None:
        return broker_time(self.record)

    @property
    def subject(self) -> str | None:
        """The person the event is about, for "forget me"."""
        data = self.data
        if isinstance(data, BehaviorData):
            return data.user
        return data.customer if isinstance(data, ChatData) else None

    @property
    def text(self) -> str:
        """What the model reads; empty when there is nothing to read."""
        data = self.data
        return headline(data.title if isinstance(data, NewsData) else None, data.text or "")

    @property
    def language(self) -> str | None:
        """The language of the text as its source names it; None where it does not, as for items."""
        return None if isinstance(self.data, BehaviorData) else self.data.language

    @property
    def key(self) -> str:
        """The key of the topic: order is kept within it."""
        data = self.data
        if isinstance(data, ChatData):
            return data.conversation
        return data.user if isinstance(data, BehaviorData) else self.source

    @property
    def name(self) -> str:
        """Source and id, as logs name the event."""
        return f"{self.source}/{self.id}"

    @property
    def entities(self) -> list[Entity] | None:
        """What the event brought itself, then what was found in its text; None where there is neither."""
        own = self.data.entities if isinstance(self.data, NewsData) else None
        return [*(own or ()), *self.mentions] if self.mentions else own

    @property
    def attributes(self) -> dict[str, Any]:
        return self.data.attributes or {}


def broker_time(record: Record) -> int | None:
    """The broker's time in microseconds; None when there is none, or it lies outside 1970-2200."""
    stamp = record.timestamp
    return stamp * 1000 if stamp is not None and 0 <= stamp < _LATEST_STAMP else None


def encode_json(value: Any) -> bytes:
    """Canonical JSON: keys sorted, so that equal values are equal bytes."""
    return msgspec.json.encode(value, order="deterministic")
