"""Closing ticks: once each, under a lock that keeps chunks out, so that nothing enters a closed tick."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import and_, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.clock import ensure_watermark, stop_clock
from pipeline.store.database import Database
from pipeline.watermark import DELAY, OWNER_GONE, Partition, Standing, Step, advance
from schemas.events import Place
from schemas.tables import closings, events, owners, progress, watermarks

_PLACE = ("cluster", "topic", "incarnation", "partition")


class Closed(Struct, frozen=True):
    """What a look at a clock gave: ticks [first, last] were closed by it (none when first > last).

    `waits_for` names the partitions that hold the watermark: without an owner, or without an event so far.
    """

    first: int
    last: int
    watermark: int
    waits_for: list[int] = []


async def close(database: Database, tick: int, stream: str, topic: str, now: int) -> Closed:
    """Close the live ticks of a stream that its watermark has passed; any worker may, at any time.

    `tick` is the width of a tick in microseconds, `topic` where the stream comes from, `now` the caller's clock.
    """
    async with database.read() as connection:
        before, closed = await _standing(connection, stream, "")
        step = advance(before, await _partitions(connection, topic, now), now)
    if not _matters(before, closed, step.standing, tick):
        return Closed(closed + 1, closed, step.standing.watermark, step.waits_for)
    async with database.begin() as connection:
        await stop_clock(connection, stream, "")
        await ensure_watermark(connection, stream, "", now)
        before, closed = await _standing(connection, stream, "")
        step = advance(before, await _partitions(connection, topic, now), now)
        last = await _write(connection, (stream, ""), closed, step, tick, now)
    return Closed(closed + 1, last, step.standing.watermark, step.waits_for)


async def close_run(database: Database, tick: int, place: Place, now: int, *, final: bool = False) -> Closed:
    """Close the ticks of a back-fill by its own watermark; `final` closes all that it has filled."""
    run = place.run or ""
    async with database.begin() as connection:
        await stop_clock(connection, place.stream, run)
        await ensure_watermark(connection, place.stream, run, now)
        before, closed = await _standing(connection, place.stream, run)
        if final:
            reached = await _last_filled(connection, run, tick)
        else:
            reached = await _newest(connection, run, closed) - DELAY
        step = Step(Standing(max(before.watermark, reached)), "end" if final else "events", [], [])
        last = await _write(connection, (place.stream, run), closed, step, tick, now)
    return Closed(closed + 1, last, step.standing.watermark)


async def _standing(connection: AsyncConnection, stream: str, run: str) -> tuple[Standing, int]:
    query = select(watermarks).where(watermarks.c.stream == stream, watermarks.c.run == run)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return Standing(), -1
    return Standing(row.watermark, row.idle_since, row.idle_base), row.closed_tick


async def _partitions(connection: AsyncConnection, topic: str, now: int) -> list[Partition]:
    same = and_(*[owners.c[name] == progress.c[name] for name in _PLACE])
    query = (
        select(owners, progress.c.newest, progress.c.timed, progress.c.new)
        .join_from(owners, progress, same, isouter=True)
        .where(owners.c.topic == topic, progress.c.ended_at.is_(None))
        .order_by(owners.c.partition)
    )
    found = (await connection.execute(query)).mappings().all()
    # Who has just begun to read may be faster than the others: their partitions are waited for from then on.
    begun = max((row["assigned_at"] for row in found), default=0)
    return [_partition(row, begun, now) for row in found]


def _partition(row: Mapping[Any, Any], begun: int, now: int) -> Partition:
    owned = row["left_at"] is None and now - row["beat_at"] <= OWNER_GONE
    orphaned = None if owned else max(row["left_at"] or row["beat_at"], begun)
    idle = row["idle_from"] is not None and row["idle_from"] >= (row["timed"] or 0)
    ahead = row["newest"] is None and bool(row["new"])
    return Partition(row["partition"], row["newest"], idle, orphaned, ahead)


def _last_closed(watermark: int, tick: int) -> int:
    return watermark // tick - 1


def _matters(before: Standing, closed: int, after: Standing, tick: int) -> bool:
    if _last_closed(after.watermark, tick) > closed:
        return True
    return (before.idle_since, before.idle_base) != (after.idle_since, after.idle_base)


async def _write(
    connection: AsyncConnection, clock: tuple[str, str], closed: int, step: Step, tick: int, now: int
) -> int:
    """Write where the clock stands; returns the last closed tick."""
    stream, run = clock
    standing = step.standing
    last = max(closed, _last_closed(standing.watermark, tick))
    values = {name: getattr(standing, name) for name in ("watermark", "idle_since", "idle_base")}
    await connection.execute(
        update(watermarks)
        .where(watermarks.c.stream == stream, watermarks.c.run == run)
        .values(**values, closed_tick=last, updated_at=now)
    )
    if last > closed:
        row = {
            "stream": stream,
            "run": run,
            "first_tick": closed + 1,
            "last_tick": last,
            "watermark": standing.watermark,
            "moved_by": step.moved_by,
            "left_out": [list(each) for each in step.left_out],
            "closed_at": now,
        }
        await connection.execute(insert(closings).values(**row))
    return last


async def _newest(connection: AsyncConnection, run: str, closed: int) -> int:
    # Rows of closed ticks are none that could move it.
    query = select(func.max(events.c.event_time)).where(
        events.c.run == run, events.c.visible_tick > closed, ~events.c.future
    )
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def _last_filled(connection: AsyncConnection, run: str, tick: int) -> int:
    own = select(func.max(events.c.visible_tick)).where(events.c.run == run)
    former = select(func.max(events.c.former_tick)).where(events.c.former_run == run)
    found = [(await connection.execute(query)).scalar_one_or_none() for query in (own, former)]
    last = max((each for each in found if each is not None), default=None)
    return 0 if last is None else (last + 1) * tick
