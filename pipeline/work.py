"""What passes between the stages of the flow: scored events on their way to the database, and what comes of it."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from schemas.errors import DataError
from schemas.events import Dead, Event, Place, Record
from schemas.scores import Score

# Headers of messages: which of two with one key is the later, and the partition of the event whose scored
# messages this one must follow.
VERSION_HEADER = "salience-version"
PARTITION_HEADER = "salience-partition"


class ScoredEvent(Struct):
    """An event with its score (None when it has no text) and `heads` as the JSON that is stored and sent."""

    event: Event
    score: Score | None
    heads: bytes = b"{}"
    signature: int | None = None
    # What a behavior event's score is keyed by: a hash of the item's text.
    item_hash: bytes | None = None
    # Its person or conversation was forgotten at this moment (microseconds); what it said is blanked.
    forgotten: int | None = None


class Work(Struct):
    """A chunk ready for its transaction. `now` is the ingest time, microseconds."""

    place: Place
    records: Sequence[Record]
    scored: list[ScoredEvent]
    dead: list[Dead]
    now: int
    bundle: str
    notify: bool = True
    # Until then the messages of this chunk are this worker's to send, microseconds.
    lease_until: int = 0
    # A person lets dead letters through once more: what became of them before does not hold.
    again: bool = False

    def halves(self) -> tuple["Work", "Work"]:
        """The same chunk in two, cut between records."""
        middle = len(self.records) // 2
        return self._part(self.records[:middle]), self._part(self.records[middle:])

    def with_only(self, dead: list[Dead]) -> "Work":
        """The same records, all dead."""
        return msgspec.structs.replace(self, scored=[], dead=dead)

    def _part(self, records: Sequence[Record]) -> "Work":
        first, last = records[0].offset, records[-1].offset
        scored = [each for each in self.scored if first <= each.event.record.offset <= last]
        dead = [each for each in self.dead if first <= each.record.offset <= last]
        return msgspec.structs.replace(self, records=records, scored=scored, dead=dead)


class NewEvent(Struct):
    """An event that this transaction stored for the first time: what reactions react to."""

    id: int
    event: Event
    score: Score | None
    visible_tick: int
    # What scored it.
    bundle: str
    signature: int | None = None


class Message(Struct):
    """A message for a topic; value None is a tombstone. `outbox` is the row to mark when the broker has it.

    `version` is set where the topic keeps the latest message of each key: the higher one holds. With `to` it is
    for that receiver instead of a topic. `alert` is the row of the alert that it tells of.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    outbox: int | None = None
    version: int | None = None
    to: str | None = None
    alert: int | None = None


class Outgoing(Struct):
    """A scored event as it stands in the database; `offset` is its place in the order of its partition."""

    source: str
    id: str
    time: int
    key: str
    bundle: str
    truncated: bool
    heads: bytes
    offset: int
    # The part of the text that was not read; None where that is not known.
    truncated_share: float | None = None


class Applied(Struct):
    """What a transaction did. Counts are of records; `repeated` were known before with the same content."""

    new: int
    repeated: int
    dead: list[Dead]
    outgoing: list[Outgoing]
    outbox: list[Message]
    alerts: int = 0
    # The partition's next offset after this chunk.
    until: int = 0
    # Whether any of its events could move the watermark.
    timed: bool = False

    def joined(self, other: "Applied") -> "Applied":
        """Both together, this one first."""
        return Applied(
            self.new + other.new,
            self.repeated + other.repeated,
            self.dead + other.dead,
            self.outgoing + other.outgoing,
            self.outbox + other.outbox,
            self.alerts + other.alerts,
            other.until,
            self.timed or other.timed,
        )


def encode_heads(score: Score) -> bytes:
    """The heads as JSON, encoded once for the table and for the topic."""
    return msgspec.json.encode(score.heads)


def alert_name(rule: str, group: str, episode: str) -> str:
    """An alert's identity in one piece: its id, and the key of its messages."""
    return f"{rule}/{group}/{episode}"


def dead_letter(record: Record, error: DataError, event: Event | None = None) -> Dead:
    """The record as a dead letter of this error."""
    name = None if event is None else event.name
    return Dead(record, error.stage, error.reason, type(error).__name__, str(error), event=name)


class AlertRow(Struct):
    """An alert as a reaction raises it; times in microseconds."""

    rule: str
    group: str
    episode: str
    kind: str
    state: str
    severity: str
    stream: str
    start: int
    visible_tick: int
    definition: str
    bundle: str
    evidence: dict[str, Any]
    event: int | None = None
    end: int | None = None
    version: int = 1
    # Names of who is told beside the topic.
    receivers: tuple[str, ...] = ()
    # Its row, once it is stored.
    id: int | None = None
