"""What is old goes, in batches; what went is remembered by its key."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import RowMapping, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.retry import through_outage
from pipeline.store import bulk, rows
from pipeline.store.database import Database
from schemas.errors import UsageError
from schemas.tables import dead_letters, events, instance, item_scores, outbox, scores, seen

# Rows deleted in one transaction: short enough that workers never wait long.
BATCH = 1_000
DAY = 86_400 * 1_000_000
# Seconds a transaction is tried again while it finds the database busy or away.
PATIENCE = 60.0

R = TypeVar("R")


async def prune(database: Database, now: int, older_than: int, forget_seen: int) -> dict[str, int]:
    """Delete events older than `older_than`, and the memory of keys older than `forget_seen` (microseconds).

    Returns how many rows of each table went.

    Raises:
        UsageError: the memory would be shorter than what is kept.
    """
    if forget_seen < older_than:
        raise UsageError(
            "--forget-seen is shorter than --older-than; keys must be remembered longer than rows are kept"
        )
    floor, seen_floor = now - older_than, now - forget_seen
    await _step(database, lambda connection: _raise_floors(connection, floor, seen_floor))
    done = {"events": 0}
    count = BATCH
    while count == BATCH:
        count = await _step(database, lambda connection: _prune_events(connection, floor))
        done["events"] += count
    return done | await _step(database, lambda connection: _prune_others(connection, floor, seen_floor))


async def _step(database: Database, job: Callable[[AsyncConnection], Awaitable[R]]) -> R:
    """One transaction; busy workers may make it wait longer than a lock's timeout, so it is tried again."""

    async def attempt() -> R:
        async with database.begin() as connection:
            return await job(connection)

    return await through_outage(attempt, PATIENCE)


async def _alone(connection: AsyncConnection) -> RowMapping:
    """The instance's row, with no chunk in flight: one that found a key not pruned may still insert it."""
    return (await connection.execute(select(instance).with_for_update())).mappings().one()


async def _raise_floors(connection: AsyncConnection, floor: int, seen_floor: int) -> None:
    # Raised before anything is deleted: a chunk that still holds the former floor is waited for by this update.
    row = await _alone(connection)
    await connection.execute(
        update(instance).values(
            pruned_before=max(floor, row["pruned_before"] or floor),
            # Keys are dropped by whole days, so the floor lies at the end of the last day that went.
            seen_before=max(seen_floor // DAY * DAY, row["seen_before"] or 0),
        )
    )


async def _prune_events(connection: AsyncConnection, floor: int) -> int:
    key = (await _alone(connection))["hash_key"]
    query = (
        select(events.c.id, events.c.stream, events.c.source, events.c.event_id, events.c.event_time)
        .where(events.c.event_time < floor)
        .order_by(events.c.event_time)
        .limit(BATCH)
    )
    old = (await connection.execute(query)).all()
    if not old:
        return 0
    remembered: Mapping[str, list[Any]] = {
        "key_hash": [rows.key_hash(key, row.stream, row.source, row.event_id) for row in old],
        "day": [row.event_time // DAY for row in old],
    }
    await bulk.insert_all(connection, seen, remembered)
    ids = [row.id for row in old]
    await connection.execute(delete(scores).where(scores.c.event.in_(ids)))
    await connection.execute(delete(events).where(events.c.id.in_(ids)))
    return len(old)


async def _prune_others(connection: AsyncConnection, floor: int, seen_floor: int) -> dict[str, int]:
    await _alone(connection)
    old_letters = delete(dead_letters).where(dead_letters.c.ingest_time < floor)
    return {
        "item_scores": await _delete(connection, _orphaned_items()),
        "outbox": await _delete(connection, delete(outbox).where(outbox.c.sent_at < floor)),
        "dead_letters": await _delete(connection, old_letters),
        "seen": await _delete(connection, delete(seen).where(seen.c.day < seen_floor // DAY)),
    }


def _orphaned_items() -> Any:
    used = exists().where(events.c.item == item_scores.c.item, events.c.item_hash == item_scores.c.text_hash)
    return delete(item_scores).where(~used)


async def _delete(connection: AsyncConnection, statement: Any) -> int:
    return (await connection.execute(statement)).rowcount
