"""What is old goes, in batches; what went is remembered by its key."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, RowMapping, delete, exists, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.retry import through_outage
from pipeline.store import bulk, quotes, rows
from pipeline.store.clock import alone
from pipeline.store.database import Database
from pipeline.store.prune_counts import prune_counts
from pipeline.store.rule_sets import longest_baseline
from schemas.errors import UsageError
from schemas.tables import alerts, closings, dead_letters, events, instance, item_scores, outbox, scores, seen

# Rows deleted in one transaction: short enough that workers never wait long.
BATCH = 1_000
DAY = 86_400 * 1_000_000
# Rules are in use when a worker has worked by them in the last day, microseconds.
IN_USE = DAY
# Seconds a transaction is tried again while it finds the database busy or away.
PATIENCE = 60.0

R = TypeVar("R")
_ITEM = tuple_(item_scores.c.item, item_scores.c.text_hash, item_scores.c.bundle)


async def prune(database: Database, now: int, older_than: int, forget_seen: int) -> dict[str, int]:
    """Delete events older than `older_than`, and the memory of keys older than `forget_seen` (microseconds).

    An alert stays when its event goes, without what it quotes of it. Returns how many rows of each table went.

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
    gone = await _prune_all_events(database, floor)
    return {
        "events": gone["events"],
        "item_scores": await _prune_all_items(database),
        "outbox": gone["outbox"] + await _prune_table(database, outbox.c.id, outbox.c.sent_at < floor),
        "dead_letters": await _prune_table(database, dead_letters.c.id, dead_letters.c.ingest_time < floor),
        "closings": await _prune_table(database, closings.c.id, closings.c.closed_at < floor),
        "seen": await _prune_table(database, seen.c.key_hash, seen.c.day < seen_floor // DAY),
        **await prune_counts(database, partial(step, database), now, older_than, BATCH),
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


async def _prune_all_events(database: Database, floor: int) -> "Counter[str]":
    done = more = await step(database, lambda connection: _prune_events(connection, floor))
    while more["events"] == BATCH:
        more = await step(database, lambda connection: _prune_events(connection, floor))
        done = done + more
    return done


async def _prune_events(connection: AsyncConnection, floor: int) -> "Counter[str]":
    key = (await _alone(connection))["hash_key"]
    query = (
        select(events.c.id, events.c.stream, events.c.source, events.c.event_id, events.c.event_time)
        .where(events.c.event_time < floor)
        .order_by(events.c.event_time)
        .limit(BATCH)
    )
    old = (await connection.execute(query)).all()
    if not old:
        return Counter()
    remembered: Mapping[str, list[Any]] = {
        "key_hash": [rows.key_hash(key, row.stream, row.source, row.event_id) for row in old],
        "day": [row.event_time // DAY for row in old],
    }
    await bulk.insert_all(connection, seen, remembered)
    ids = [row.id for row in old]
    await connection.execute(delete(scores).where(scores.c.event.in_(ids)))
    await connection.execute(delete(events).where(events.c.id.in_(ids)))
    return Counter(events=len(old), outbox=await _prune_quotes(connection, ids))


async def _prune_quotes(connection: AsyncConnection, ids: list[int]) -> int:
    """What other tables say in the words of these events goes too, as `forget` finds it by the event only."""
    await connection.execute(update(alerts).where(alerts.c.event.in_(ids)).values(evidence={"pruned": True}))
    sent = delete(outbox).where(outbox.c.event.in_(ids), outbox.c.sent_at.is_not(None))
    gone = (await connection.execute(sent)).rowcount
    return gone + await quotes.delete_told(connection, await quotes.take_out(connection, ids, quotes.PRUNED))


async def _prune_all_items(database: Database) -> int:
    done, after = 0, None
    while True:
        count, after = await step(database, partial(_prune_items, after=after))
        done += count
        if after is None:
            return done


async def _prune_items(
    connection: AsyncConnection, after: tuple[str, bytes, str] | None = None
) -> tuple[int, tuple[str, bytes, str] | None]:
    """Look at a batch of items after the given one; returns how many went and the last one, None at the end."""
    # A chunk in flight may be about to name an item that no event names yet.
    await alone(connection)
    later = true() if after is None else tuple_(*after) < _ITEM
    found = (
        await connection.execute(select(*_ITEM.clauses).where(later).order_by(*_ITEM.clauses).limit(BATCH))
    ).all()
    if not found:
        return 0, None
    last = tuple(found[-1])
    used = exists().where(events.c.item == item_scores.c.item, events.c.item_hash == item_scores.c.text_hash)
    gone = await connection.execute(delete(item_scores).where(later, tuple_(*last) >= _ITEM, ~used))
    return gone.rowcount, last if len(found) == BATCH else None


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
