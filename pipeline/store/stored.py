"""Stored events as rules ask of them: with the scores of the bundle that scored them, never scored again."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.conditions import Facts
from schemas.messages import headline
from schemas.scores import HeadResult
from schemas.tables import events, item_scores, runs, scores

_HEADS = dict[str, HeadResult]


class Stored(Struct):
    """A stored event: its row, the tick in which it counts, and what rules ask of it."""

    id: int
    event_id: str
    event_time: int
    tick: int
    partition: int
    signature: int | None
    facts: Facts


def counting(stream: str) -> ColumnElement[bool]:
    """Events of a stream that count for live rules: live ones, and those of back-fills that were counted."""
    counted = select(runs.c.run).where(runs.c.counted)
    return and_(events.c.stream == stream, countable(), or_(events.c.run.is_(None), events.c.run.in_(counted)))


def countable() -> ColumnElement[bool]:
    """Events that count at all: not what came in too late, or of somebody who was forgotten before it came."""
    known = or_(events.c.forgotten_at.is_(None), events.c.forgotten_at > events.c.ingest_time)
    return and_(~events.c.too_old, known)


def query() -> Select[Any]:
    """Events with their scores; the caller says which, and in which order."""
    names = ("id", "event_id", "source", "title", "text", "entities", "attributes", "signature", "partition")
    heads = func.coalesce(scores.c.heads, item_scores.c.heads)
    own = and_(scores.c.event == events.c.id, scores.c.bundle == events.c.bundle)
    of_item = and_(
        item_scores.c.item == events.c.item,
        item_scores.c.text_hash == events.c.item_hash,
        item_scores.c.bundle == events.c.bundle,
    )
    return (
        select(
            *[events.c[name] for name in names], events.c.event_time, events.c.visible_tick, heads.label("heads")
        )
        .select_from(events)
        .join(scores, own, isouter=True)
        .join(item_scores, of_item, isouter=True)
    )


async def read(connection: AsyncConnection, wanted: Select[Any]) -> list[Stored]:
    """What such a query gives."""
    return [_stored(row) for row in (await connection.execute(wanted)).all()]


def _stored(row: Any) -> Stored:
    heads = row.heads if isinstance(row.heads, dict) else msgspec.json.decode(row.heads or "{}")
    entities: Sequence[Any] = row.entities or ()
    facts = Facts(
        row.source,
        headline(row.title, row.text or ""),
        entities,
        row.attributes or {},
        msgspec.convert(heads, _HEADS),
    )
    return Stored(row.id, row.event_id, row.event_time, row.visible_tick, row.partition, row.signature, facts)
