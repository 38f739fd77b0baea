"""Events as columns: one list a column, in the order of the events."""

import hashlib
from collections.abc import Sequence
from typing import Any

from pipeline.work import ScoredEvent, Work
from schemas.events import Event, Place, encode_json
from schemas.messages import BehaviorData, ChatData, NewsData

# An event further ahead of its broker or ingest time than this does not move the watermark.
FUTURE = 600 * 1_000_000


def constants(work: Work, rules: str | None) -> dict[str, Any]:
    """What all events of a chunk share; `rules` is the version of those in force."""
    place = work.place
    return {
        "stream": place.stream,
        "origin": place.origin,
        "run": place.run,
        "cluster": place.cluster,
        "topic": place.topic,
        "incarnation": place.incarnation,
        "partition": place.partition,
        "ingest_time": work.now,
        "bundle": work.bundle,
        "rules": rules,
    }


def is_future(event: Event, now: int) -> bool:
    broker = event.broker_time
    return event.time > (now if broker is None else min(broker, now)) + FUTURE


def own_tick(event: Event, future: bool, now: int, tick: int) -> int:
    """The tick an event belongs to; one that claims the future counts when it came in."""
    return (now if future else event.time) // tick


def columns(stream: str, scored: Sequence[ScoredEvent], futures: Sequence[bool]) -> dict[str, list[Any]]:
    """The event columns that differ from row to row, without what the transaction adds."""
    events = [each.event for each in scored]
    data: list[Any] = [event.data for event in events]
    shared: dict[str, list[Any]] = {
        "source": [event.source for event in events],
        "event_id": [event.id for event in events],
        "content_hash": [event.content_hash for event in events],
        "offset": [event.record.offset for event in events],
        "event_time": [event.time for event in events],
        "broker_time": [event.broker_time for event in events],
        "future": list(futures),
        "truncated": [each.score is not None and each.score.truncated for each in scored],
        "traceparent": [event.traceparent for event in events],
        "signature": [each.signature for each in scored],
        "text": [None if each.forgotten is not None else each.event.data.text for each in scored],
        "attributes": [_json(each.attributes) for each in data],
    }
    own: dict[str, list[Any]] = _OF_STREAM[stream](data, scored)
    return shared | own


def _news(data: Sequence[NewsData], scored: Sequence[ScoredEvent]) -> dict[str, list[Any]]:
    return {
        "title": [each.title for each in data],
        "url": [each.url for each in data],
        "language": [each.language for each in data],
        "entities": _entities(scored),
    }


def _chat(data: Sequence[ChatData], scored: Sequence[ScoredEvent]) -> dict[str, list[Any]]:
    return {
        "subject": [each.customer for each in data],
        "language": [each.language for each in data],
        "conversation": [each.conversation for each in data],
        "role": [each.role for each in data],
        "kind": [each.kind for each in data],
        "channel": [each.channel for each in data],
        "entities": _entities(scored),
    }


def _entities(scored: Sequence[ScoredEvent]) -> list[str | None]:
    return [_json(each.event.entities) for each in scored]


def _behavior(data: Sequence[BehaviorData], scored: Sequence[ScoredEvent]) -> dict[str, list[Any]]:
    return {
        # A forgotten person's events have no user.
        "subject": [each.user or None for each in data],
        "item": [each.item for each in data],
        "item_hash": [each.item_hash for each in scored],
        "item_version": [each.version for each in data],
        "action": [each.action for each in data],
        "value": [each.value for each in data],
        "session": [each.session for each in data],
    }


_OF_STREAM: dict[str, Any] = {"news": _news, "chat": _chat, "behavior": _behavior}


def pick(columns: dict[str, list[Any]], indices: Sequence[int]) -> dict[str, list[Any]]:
    """The same columns for some of the rows."""
    return {name: [values[index] for index in indices] for name, values in columns.items()}


def key_hash(key: bytes, stream: str, source: str, event_id: str) -> bytes:
    """The hash by which `seen` remembers an event whose row was pruned."""
    return hashlib.blake2b(encode_json([stream, source, event_id]), digest_size=16, key=key).digest()


def subject_hash(key: bytes, subject: str) -> bytes:
    """The hash by which `subjects` knows a person."""
    return hashlib.blake2b(subject.encode("utf-8", "replace"), digest_size=16, key=key, person=b"subject").digest()


def conversation_hash(key: bytes, conversation: str) -> bytes:
    """The hash by which `subjects` knows a forgotten conversation; it never equals that of a person."""
    name = conversation.encode("utf-8", "replace")
    return hashlib.blake2b(name, digest_size=16, key=key, person=b"conversation").digest()


def dead_letter_identity(place: Place, offset: int, value: bytes | None) -> bytes:
    """Where a dead letter came from; the same record met again is the same dead letter."""
    where = encode_json([place.cluster, place.topic, place.incarnation, place.partition, offset])
    return hashlib.blake2b(where + b"\0" + (value or b""), digest_size=16).digest()


def _json(value: Any) -> str | None:
    return None if value is None else encode_json(value).decode()
