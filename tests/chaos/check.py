"""The checker: accounts for every event of a round by what database and topics hold at its end."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from feed import Sent
from kafka import KafkaConsumer, TopicPartition
from msgspec import Struct, field
from workers import Deployment

from pipeline.topics import Topics

Partition = tuple[str, int]

_EVENTS = 'SELECT id, event_id, topic, "partition", "offset" FROM events ORDER BY id'
_DEAD = 'SELECT topic, "partition", "offset", reason, value FROM dead_letters ORDER BY id'
_PROGRESS = 'SELECT topic, "partition", stored, published, new, repeated, dead FROM progress'
_ALERTS = "SELECT episode FROM alerts"
# How many ids of a kind are named.
_NAMED = 10


class Row(NamedTuple):
    """A stored event; `row` numbers the rows in the order in which they were stored."""

    row: int
    id: str
    topic: str
    partition: int
    offset: int


class Letter(NamedTuple):
    """A dead letter; `id` is the event's, from its bytes."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: str


class Standing(NamedTuple):
    """A partition's progress; offsets are the next ones."""

    topic: str
    partition: int
    stored: int
    published: int
    new: int
    repeated: int
    dead: int


class Seen(Struct):
    """What a round left behind. `scored` and `alerts_sent` count messages by event, `ends` are next offsets."""

    rows: list[Row]
    letters: list[Letter]
    progress: list[Standing]
    alerts: Counter[str]
    scored: Counter[str] = field(default_factory=Counter)
    alerts_sent: Counter[str] = field(default_factory=Counter)
    letters_sent: Counter[str] = field(default_factory=Counter)
    ends: dict[Partition, int] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)


class Account(Struct):
    """What became of the events. All lists but `dead` must be empty; `repeated` is a share of `produced`."""

    produced: int
    stored: int
    dead: list[str]
    lost: list[str]
    twice: list[str]
    disordered: list[str]
    unscored: list[str]
    alerts: list[str]
    unexpected: list[str]
    progress: list[str]
    repeated: float

    def wrong(self) -> dict[str, list[str]]:
        """What is not as it must be, by kind, the first few of each."""
        kinds = ("lost", "twice", "disordered", "unscored", "alerts", "unexpected", "progress")
        return {kind: getattr(self, kind)[:_NAMED] for kind in kinds if getattr(self, kind)}


def account(sent: Sequence[Sent], seen: Seen, spare: int = 0) -> Account:
    """Hold what is there against what was sent; `spare` events may be dead without being brittle."""
    stored = Counter(row.id for row in seen.rows)
    dead = Counter(letter.id for letter in seen.letters)
    fates = stored + dead
    known = {event.id for event in sent}
    unexpected = [event.id for event in sent if dead[event.id] and not event.brittle]
    return Account(
        produced=len(sent),
        stored=sum(1 for event in sent if stored[event.id]),
        dead=[event.id for event in sent if dead[event.id]],
        lost=[event.id for event in sent if not fates[event.id]],
        twice=[f"{id_} (stored {stored[id_]}, dead {dead[id_]})" for id_, times in fates.items() if times > 1],
        disordered=_disordered(sent, seen.rows),
        unscored=[event.id for event in sent if stored[event.id] and not seen.scored[event.id]],
        alerts=list(_alerts(sent, seen, stored)),
        unexpected=[id_ for id_ in fates if id_ not in known]
        + (unexpected if len(unexpected) > spare else [])
        + [f"{id_} is no message" for id_ in dead if not seen.letters_sent[id_]],
        progress=list(_progress(seen)),
        repeated=sum(times - 1 for times in seen.scored.values()) / max(1, len(sent)),
    )


def lost_and_twice(sent: Sequence[Sent], ids: Counter[str]) -> tuple[list[str], list[str]]:
    """Of plain rows: the events that are missing, and those that are there more than once."""
    return [event.id for event in sent if not ids[event.id]], [id_ for id_, times in ids.items() if times > 1]


def _disordered(sent: Sequence[Sent], rows: Iterable[Row]) -> list[str]:
    """Events that were stored after a later one of their key; a key keeps its order within a partition."""
    by_id = {event.id: event for event in sent}
    last: dict[tuple[str, str, int], int] = defaultdict(int)
    found = []
    for row in rows:
        event = by_id.get(row.id)
        if event is None:
            continue
        place = (event.key, row.topic, row.partition)
        if event.number < last[place]:
            found.append(row.id)
        last[place] = max(last[place], event.number)
    return found


def _alerts(sent: Sequence[Sent], seen: Seen, stored: Mapping[str, int]) -> Iterable[str]:
    for event in sent:
        wanted = 1 if event.alarm and stored[event.id] else 0
        if seen.alerts[event.id] != wanted:
            yield f"{event.id} has {seen.alerts[event.id]} alerts, not {wanted}"
        if bool(seen.alerts_sent[event.id]) != bool(wanted):
            yield f"{event.id}: {seen.alerts_sent[event.id]} messages of {wanted} alerts"


def _progress(seen: Seen) -> Iterable[str]:
    rows: Counter[Partition] = Counter()
    letters: Counter[Partition] = Counter()
    furthest: dict[Partition, int] = defaultdict(int)
    for counter, found in ((rows, seen.rows), (letters, seen.letters)):
        for each in found:
            place = (each.topic, each.partition)
            counter[place] += 1
            furthest[place] = max(furthest[place], each.offset + 1)
    for own in seen.progress:
        place = (own.topic, own.partition)
        name = f"{own.topic}/{own.partition}"
        if own.stored > seen.ends.get(place, 0):
            yield f"{name}: stored {own.stored}, but the topic ends at {seen.ends.get(place, 0)}"
        if own.new + own.repeated + own.dead != own.stored:
            yield f"{name}: {own.new} new, {own.repeated} repeated, {own.dead} dead are not {own.stored}"
        if (rows[place], letters[place]) != (own.new, own.dead):
            yield f"{name}: {rows[place]} rows and {letters[place]} letters, not {own.new} and {own.dead}"
        if furthest[place] > own.stored:
            yield f"{name}: a row stands at {furthest[place] - 1}, beyond stored {own.stored}"
        if own.published > own.stored:
            yield f"{name}: published {own.published} is ahead of stored {own.stored}"
        if seen.committed.get(place, 0) > own.stored:
            yield f"{name}: acknowledged {seen.committed[place]} is ahead of stored {own.stored}"
    unknown = {
        place for place in furthest if place not in {(each.topic, each.partition) for each in seen.progress}
    }
    yield from (f"{topic}/{partition}: rows without progress" for topic, partition in sorted(unknown))


def look(deployment: Deployment) -> Seen:
    """Read database and topics."""
    seen = look_at_database(deployment)
    broker = deployment.settings.broker
    topics = Topics(broker.prefix)
    with closing(consumer_of(broker.servers, broker.group)) as consumer:
        records = records_of(consumer, [topics.scored, topics.alerts, *topics.dead.values()])
        inputs = list(topics.inputs.values())
        seen.ends, seen.committed = ends(consumer, inputs), committed(consumer, inputs)
    seen.scored = Counter(str(json.loads(record.value)["id"]) for record in records[topics.scored])
    episodes = [json.loads(record.value)["episode"] for record in records[topics.alerts]]
    seen.alerts_sent = Counter(map(_event_of, episodes))
    seen.letters_sent = Counter(_id_in(r.value) for topic in topics.dead.values() for r in records[topic])
    return seen


def look_at_database(deployment: Deployment) -> Seen:
    """Read the database alone."""
    return Seen(
        rows=[Row(*row) for row in deployment.rows(_EVENTS)],
        letters=[Letter(_id_in(row[4]), *row[:4]) for row in deployment.rows(_DEAD)],
        progress=[Standing(*row) for row in deployment.rows(_PROGRESS)],
        alerts=Counter(_event_of(row[0]) for row in deployment.rows(_ALERTS)),
    )


def behind(deployment: Deployment) -> list[str]:
    """Partitions of which something is not stored, or neither noted nor acknowledged as delivered."""
    broker = deployment.settings.broker
    inputs = list(Topics(broker.prefix).inputs.values())
    with closing(consumer_of(broker.servers, broker.group)) as consumer:
        wanted, acknowledged = ends(consumer, inputs), committed(consumer, inputs)
    standing = {(row[0], row[1]): (row[2], row[3]) for row in deployment.rows(_PROGRESS)}
    found = []
    for place, end in wanted.items():
        stored, published = standing.get(place, (0, 0))
        delivered = max(published, acknowledged.get(place, 0))
        if end and (stored < end or delivered < end):
            found.append(f"{place[0]}/{place[1]}: stored {stored}, delivered {delivered} of {end}")
    return found


def ends(consumer: KafkaConsumer, topics: Iterable[str]) -> dict[Partition, int]:
    """Each partition's next offset."""
    offsets = consumer.end_offsets(_partitions(consumer, topics))
    return {(tp.topic, tp.partition): offset for tp, offset in offsets.items()}


def committed(consumer: KafkaConsumer, topics: Iterable[str]) -> dict[Partition, int]:
    """What the consumer's group has acknowledged."""
    found = {(tp.topic, tp.partition): consumer.committed(tp) for tp in _partitions(consumer, topics)}
    return {place: offset for place, offset in found.items() if offset is not None}


def consumer_of(servers: str, group: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=servers, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )


def _partitions(consumer: KafkaConsumer, topics: Iterable[str]) -> list[TopicPartition]:
    return [
        TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()
    ]


def records_of(consumer: KafkaConsumer, topics: Sequence[str]) -> dict[str, list[Any]]:
    """All records of the topics, read up to their present ends."""
    partitions = _partitions(consumer, topics)
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    wanted = consumer.end_offsets(partitions)
    found: dict[str, list[Any]] = {topic: [] for topic in topics}
    while any(consumer.position(tp) < end for tp, end in wanted.items()):
        for tp, records in consumer.poll(timeout_ms=200).items():
            found[tp.topic] += records
    return found


def _event_of(episode: str) -> str:
    """A match rule's episode is stream/source/id."""
    return episode.rpartition("/")[2]


def _id_in(value: bytes | None) -> str:
    try:
        return str(json.loads(value or b"")["id"])
    except (ValueError, KeyError, TypeError):
        return "?"
