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


async def close(database: Database, tick: int, stream: str, now: int) -> Closed:
    """Close the live ticks of a stream that its watermark has passed; any worker may, at any time.

    `tick` is the width of a tick in microseconds, `now` the caller's clock.
    """
    async with database.read() as connection:
        before, closed = await _standing(connection, stream, "")
        step = advance(before, await _partitions(connection, stream, now), now)
    if not _matters(before, closed, step.standing, tick):
        return Closed(closed + 1, closed, step.standing.watermark, step.waits_for)
    async with database.begin() as connection:
        await ensure_watermark(connection, stream, "", now)
        await stop_clock(connection, stream, "")
        before, closed = await _standing(connection, stream, "")
        step = advance(before, await _partitions(connection, stream, now), now)
        last = await _write(connection, (stream, ""), closed, step, tick, now)
    return Closed(closed + 1, last, step.standing.watermark, step.waits_for)


async def close_run(database: Database, tick: int, place: Place, now: int, *, final: bool = False) -> Closed:
    """Close the ticks of a back-fill by its own watermark; `final` closes all that it has filled."""
    run = place.run or ""
    async with database.begin() as connection:
        await ensure_watermark(connection, place.stream, run, now)
        await stop_clock(connection, place.stream, run)
        before, closed = await _standing(connection, place.stream, run)
        if final:
            reached = await _last_filled(connection, run, tick)
        else:
            reached = await _newest(connection, place) - DELAY
        step = Step(Standing(max(before.watermark, reached)), "end" if final else "events", [], [])
        last = await _write(connection, (place.stream, run), closed, step, tick, now)
    return Closed(closed + 1, last, step.standing.watermark)


async def _standing(connection: AsyncConnection, stream: str, run: str) -> tuple[Standing, int]:
    query = select(watermarks).where(watermarks.c.stream == stream, watermarks.c.run == run)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return Standing(), -1
    return Standing(row.watermark, row.idle_since, row.idle_base, row.held_since), row.closed_tick


async def _partitions(connection: AsyncConnection, stream: str, now: int) -> list[Partition]:
    same = and_(*[owners.c[name] == progress.c[name] for name in _PLACE])
    query = (
        select(owners, progress.c.newest, progress.c.timed, progress.c.new)
        .join_from(owners, progress, same)
        .where(owners.c.stream == stream, progress.c.ended_at.is_(None))
        .order_by(owners.c.topic, owners.c.partition)
    )
    return [_partition(row, now) for row in (await connection.execute(query)).mappings()]


def _partition(row: Mapping[Any, Any], now: int) -> Partition:
    owned = row["left_at"] is None and now - row["beat_at"] <= OWNER_GONE
    idle = row["idle_from"] is not None and row["idle_from"] >= row["timed"]
    return Partition(row["partition"], row["newest"], owned, idle, row["newest"] is None and row["new"] > 0)


def _last_closed(watermark: int, tick: int) -> int:
    return watermark // tick - 1


def _matters(before: Standing, closed: int, after: Standing, tick: int) -> bool:
    if _last_closed(after.watermark, tick) > closed:
        return True
    return (before.idle_since, before.idle_base, before.held_since) != (
        after.idle_since,
        after.idle_base,
        after.held_since,
    )


async def _write(
    connection: AsyncConnection, clock: tuple[str, str], closed: int, step: Step, tick: int, now: int
) -> int:
    """Write where the clock stands; returns the last closed tick."""
    stream, run = clock
    standing = step.standing
    last = max(closed, _last_closed(standing.watermark, tick))
    values = {name: getattr(standing, name) for name in ("watermark", "idle_since", "idle_base", "held_since")}
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


async def _newest(connection: AsyncConnection, place: Place) -> int:
    query = select(progress.c.newest).where(*[progress.c[name] == getattr(place, name) for name in _PLACE])
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def _last_filled(connection: AsyncConnection, run: str, tick: int) -> int:
    query = select(func.max(events.c.visible_tick)).where(events.c.run == run)
    last = (await connection.execute(query)).scalar_one_or_none()
    return 0 if last is None else (last + 1) * tick
