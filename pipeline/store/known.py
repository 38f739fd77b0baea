"""What the database already holds of a chunk: repeats, conflicts, and what to publish again."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import and_, case, exists, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.work import Message, Outgoing, ScoredEvent, dead_letter
from schemas.errors import ConflictError
from schemas.events import Dead, Place, encode_json
from schemas.tables import events, item_scores, outbox, runs, scores


class Held(Struct):
    """An event that only a back-fill without attachment holds: its row and what the database says of it."""

    event: ScoredEvent
    row: int
    bundle: str | None
    heads: dict[str, Any] | None


class Known(Struct):
    """Events of a chunk that were stored before; `held` are those that count as new."""

    repeated: int
    clashes: list[Dead]
    outgoing: list[Outgoing]
    rows: list[int]
    held: list[Held]


def clash(event: ScoredEvent) -> Dead:
    """The dead letter of an event whose key is taken by other content."""
    it = event.event
    error = ConflictError(
        f"{it.stream}/{it.source}/{it.id} was stored before with other content; "
        "an event never changes: send the new content under a new id"
    )
    return dead_letter(it.record, error, it)


def unique(scored: Sequence[ScoredEvent]) -> tuple[list[ScoredEvent], int, list[Dead]]:
    """First of each key in the chunk, the number of equal repeats, and the repeats with other content."""
    first: dict[tuple[str, str], ScoredEvent] = {}
    repeated = 0
    clashes = []
    for each in scored:
        known = first.setdefault((each.event.source, each.event.id), each)
        if known is each:
            continue
        if known.event.content_hash == each.event.content_hash:
            repeated += 1
        else:
            clashes.append(clash(each))
    return list(first.values()), repeated, clashes


async def compare(
    connection: AsyncConnection, place: Place, candidates: Sequence[ScoredEvent], stored: int
) -> Known:
    """Hold events that were not inserted against what is stored.

    `stored` is the partition's next offset to store: what lies before it is a redelivery, and is published
    again as it stands in the database.
    """
    known = Known(0, [], [], [], [])
    if not candidates:
        return known
    keys = [(each.event.source, each.event.id) for each in candidates]
    heads = case((scores.c.event.is_not(None), scores.c.heads), else_=item_scores.c.heads)
    joined = events.outerjoin(
        scores, and_(scores.c.event == events.c.id, scores.c.bundle == events.c.bundle)
    ).outerjoin(
        item_scores,
        and_(
            item_scores.c.item == events.c.item,
            item_scores.c.text_hash == events.c.item_hash,
            item_scores.c.bundle == events.c.bundle,
        ),
    )
    query = (
        select(
            events.c.id, events.c.source, events.c.event_id, events.c.content_hash,
            events.c.event_time, events.c.bundle, events.c.truncated, heads.label("heads"),
            (events.c.run.is_not(None) & ~_attached()).label("unattached"), events.c.forgotten_at,
        )
        .select_from(joined)
        .where(events.c.stream == place.stream, tuple_(events.c.source, events.c.event_id).in_(keys))
    )  # fmt: skip
    found = {(row.source, row.event_id): row for row in await connection.execute(query)}
    for each in candidates:
        event = each.event
        row = found.get((event.source, event.id))
        if row is not None and row.content_hash != event.content_hash:
            known.clashes.append(clash(each))
            continue
        if row is not None and row.unattached and place.run is None:
            known.held.append(Held(each, row.id, row.bundle, row.heads))
            continue
        known.repeated += 1
        if row is not None and event.record.offset < stored and row.forgotten_at is None:
            known.rows.append(row.id)
            known.outgoing.append(
                Outgoing(
                    event.source, event.id, row.event_time, event.key, row.bundle or "",
                    row.truncated, encode_json(row.heads or {}), event.record.offset,
                )
            )  # fmt: skip
    return known


def _attached() -> Any:
    return exists().where(runs.c.run == events.c.run, runs.c.attached_tick.is_not(None))


async def unsent(connection: AsyncConnection, rows: Sequence[int]) -> list[Message]:
    """Messages of these events that no broker has confirmed."""
    if not rows:
        return []
    later = outbox.alias()
    newer = exists().where(
        later.c.receiver == outbox.c.receiver, later.c.key == outbox.c.key, later.c.version > outbox.c.version
    )
    query = (
        select(outbox)
        .where(
            outbox.c.event.in_(rows), outbox.c.sent_at.is_(None), outbox.c.receiver.startswith("topic:"), ~newer
        )
        .order_by(outbox.c.id)
    )
    return [from_row(row) for row in (await connection.execute(query)).mappings()]


def from_row(row: object) -> Message:
    """An outbox row as the message it stands for."""
    found = dict(row)  # type: ignore[call-overload]
    topic = found["receiver"].removeprefix("topic:")
    headers = [(name, value.encode()) for name, value in found["headers"]]
    return Message(topic, found["key"], found["value"], headers, found["id"])
