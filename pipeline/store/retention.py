"""What is old goes, in batches; what went is remembered by its key."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, RowMapping, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.retry import through_outage
from pipeline.store import bulk, rows
from pipeline.store.clock import alone
from pipeline.store.database import Database
from pipeline.store.rule_sets import longest_baseline
from schemas.errors import UsageError
from schemas.tables import closings, dead_letters, events, instance, item_scores, outbox, scores, seen

# Rows deleted in one transaction: short enough that workers never wait long.
BATCH = 1_000
DAY = 86_400 * 1_000_000
# Rules are in use when a worker has worked by them in the last day, microseconds.
IN_USE = DAY
# Seconds a transaction is tried again while it finds the database busy or away.
PATIENCE = 60.0

R = TypeVar("R")


async def prune(database: Database, now: int, older_than: int, forget_seen: int) -> dict[str, int]:
    """Delete events older than `older_than`, and the memory of keys older than `forget_seen` (microseconds).

    Returns how many rows of each table went.

    Raises:
        UsageError: the memory would be shorter than what is kept, or that shorter than what rules look back on.
    """
    if forget_seen < older_than:
        raise UsageError(
            "--forget-seen is shorter than --older-than; keys must be remembered longer than rows are kept"
        )
    baseline = await longest_baseline(database, now - IN_USE)
    if older_than < baseline:
        raise UsageError(
            f"--older-than {_shown(older_than)} is shorter than the longest baseline of the rules in use, "
            f"{_shown(baseline)}; keep events for at least {_shown(baseline)}, or shorten the baseline"
        )
    floor, seen_floor = now - older_than, now - forget_seen
    await step(database, lambda connection: _raise_floors(connection, floor, seen_floor))
    done = {"events": await _batches(database, lambda connection: _prune_events(connection, floor))}
    done["item_scores"] = await step(database, _prune_items)
    return done | {
        "outbox": await _prune_table(database, outbox.c.id, outbox.c.sent_at < floor),
        "dead_letters": await _prune_table(database, dead_letters.c.id, dead_letters.c.ingest_time < floor),
        "closings": await _prune_table(database, closings.c.id, closings.c.closed_at < floor),
        "seen": await _prune_table(database, seen.c.key_hash, seen.c.day < seen_floor // DAY),
    }


async def step(database: Database, job: Callable[[AsyncConnection], Awaitable[R]]) -> R:
    """One transaction; busy workers may make it wait longer than a lock's timeout, so it is tried again."""

    async def attempt() -> R:
        async with database.begin() as connection:
            return await job(connection)

    return await through_outage(attempt, PATIENCE)


async def _batches(database: Database, job: Callable[[AsyncConnection], Awaitable[int]]) -> int:
    """One transaction after the other until one handled less than a batch; returns how many rows went."""
    done = count = await step(database, job)
    while count == BATCH:
        count = await step(database, job)
        done += count
    return done


async def _alone(connection: AsyncConnection) -> RowMapping:
    """The instance's row, with no chunk in flight: one that found a key not pruned may still insert it."""
    await alone(connection)
    return (await connection.execute(select(instance))).mappings().one()


async def _raise_floors(connection: AsyncConnection, floor: int, seen_floor: int) -> None:
    # Raised before anything is deleted: a chunk that still holds the former floor is waited for.
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


async def _prune_items(connection: AsyncConnection) -> int:
    # A chunk in flight may be about to name an item that no event names yet.
    await alone(connection)
    used = exists().where(events.c.item == item_scores.c.item, events.c.item_hash == item_scores.c.text_hash)
    return (await connection.execute(delete(item_scores).where(~used))).rowcount


async def _prune_table(database: Database, key: ColumnElement[Any], old: ColumnElement[bool]) -> int:
    """Delete the old rows of the table of `key`, which workers go on writing to."""

    async def batch(connection: AsyncConnection) -> int:
        found = (await connection.execute(select(key).where(old).limit(BATCH))).scalars().all()
        if found:
            await connection.execute(delete(key.table).where(key.in_(found)))
        return len(found)

    return await _batches(database, batch)


def _shown(length: int) -> str:
    """A length of time as the command line takes it, in the largest unit that leaves no rest."""
    for unit, size in (("d", DAY), ("h", DAY // 24), ("m", 60_000_000)):
        if length >= size and length % size == 0:
            return f"{length // size}{unit}"
    return f"{length / 1_000_000:f}".rstrip("0").rstrip(".") + "s"
