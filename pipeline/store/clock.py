"""Where a partition and its stream stand: locked first in a chunk's transaction.

On PostgreSQL the chunks share two advisory locks: one for their stream's clock, which closing a tick takes alone,
and one for all of them, which pruning and forgetting take alone. Row locks would not do: whoever wants a row alone
waits for ever behind sharers that overlap, while advisory locks are given in the order of asking. SQLite has one
writer at a time.
"""

import zlib
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import Integer, bindparam, func, literal, select, text, true
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.counting import rule_activations
from schemas.events import Place
from schemas.tables import instance, progress, runs, watermarks

# "salience" on a telephone's keys, as the lock of migrations; the second number names what is locked.
_LOCKS = 725_423_623
_CHUNKS = 2_147_483_647

_PLACE = [progress.c[name] == bindparam(name) for name in ("cluster", "topic", "incarnation", "partition")]
_STANDING = (progress.c.stored, progress.c.published, progress.c.sequence, progress.c.newest, progress.c.timed)
# Built once: SQLAlchemy takes longer to build a statement than to run it from its cache.
_PROGRESS_SQLITE = select(*_STANDING).where(*_PLACE)
_PROGRESS_POSTGRESQL = (
    select(
        *_STANDING,
        func.pg_advisory_xact_lock_shared(literal(_LOCKS, Integer), literal(_CHUNKS, Integer)).is_(None),
        func.pg_advisory_xact_lock_shared(literal(_LOCKS, Integer), bindparam("clock", type_=Integer)).is_(None),
    )
    .where(*_PLACE)
    .with_for_update()
)
_OF_STREAM = select(func.max(rule_activations.c.sequence)).where(rule_activations.c.stream == bindparam("stream"))
_TIME = (
    select(
        watermarks.c.closed_tick,
        instance.c.pruned_before,
        instance.c.seen_before,
        instance.c.forgotten_before,
        _OF_STREAM.where(rule_activations.c.active_tick.is_not(None)).scalar_subquery().label("active"),
        _OF_STREAM.scalar_subquery().label("announced"),
    )
    .join_from(watermarks, instance, true())
    .where(watermarks.c.stream == bindparam("stream"), watermarks.c.run == bindparam("run"))
)
_ATTACHED = (
    select(runs.c.attached_tick, watermarks.c.closed_tick)
    .join_from(runs, watermarks, (watermarks.c.stream == runs.c.stream) & (watermarks.c.run == ""))
    .where(runs.c.run == bindparam("run"), runs.c.attached_tick.is_not(None))
)


class Rules(NamedTuple):
    """Numbers of a stream's activations: of the rules in force, and of those that are counted ahead."""

    active: int | None
    announced: int | None


class Clock(Struct, frozen=True):
    """Offsets are the next ones; ticks count from 1970; `newest` and the floors are in microseconds.

    `counts` says whether live rules count the rows: those of a back-fill only when its run is attached.
    """

    stored: int
    published: int
    sequence: int
    newest: int | None
    timed: int
    closed_tick: int
    pruned_before: int | None
    seen_before: int | None
    forgotten_before: int | None
    rules: Rules
    counts: bool


async def lock(connection: AsyncConnection, place: Place, now: int) -> Clock:
    """Lock the partition's progress, and hold the stream's clock and the floors of retention where they are.

    Two workers that both believe to own a partition take turns here; closing a tick, pruning and forgetting
    wait for the chunks in flight, and chunks that come later wait for them.
    """
    key: dict[str, Any] = {
        "cluster": place.cluster,
        "topic": place.topic,
        "incarnation": place.incarnation,
        "partition": place.partition,
    }
    sqlite = connection.dialect.name == "sqlite"
    query = _PROGRESS_SQLITE if sqlite else _PROGRESS_POSTGRESQL
    asked = key if sqlite else {**key, "clock": _clock(place.stream, place.run or "")}
    row = (await connection.execute(query, asked)).one_or_none()
    if row is None:
        await ensure_progress(connection, place, 0, now)
        row = (await connection.execute(query, asked)).one()
    # A statement of its own, after the locks: it sees what those have written who held them before.
    time = await _time(connection, place, now)
    return Clock(row.stored, row.published, row.sequence, row.newest, row.timed, *time)


async def ensure_progress(connection: AsyncConnection, place: Place, offset: int, now: int) -> None:
    """A partition that has no progress begins at `offset`."""
    build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    values: dict[str, Any] = dict.fromkeys(("sequence", "new", "repeated", "dead"), 0)
    values |= {name: getattr(place, name) for name in ("cluster", "topic", "incarnation", "partition", "stream")}
    values |= {"stored": offset, "published": offset, "timed": offset, "updated_at": now}
    await connection.execute(build(progress).values(**values).on_conflict_do_nothing())


async def alone(connection: AsyncConnection) -> None:
    """Wait for the chunks in their transactions and keep others out until this transaction ends."""
    await _take(connection, _CHUNKS)


async def stop_clock(connection: AsyncConnection, stream: str, run: str) -> None:
    """Wait for this clock's chunks in their transactions and keep others out until this transaction ends."""
    await _take(connection, _clock(stream, run))


async def try_decisions(connection: AsyncConnection, stream: str) -> bool:
    """Whether this transaction is the one to take the stream's decisions; on SQLite it always is."""
    if connection.dialect.name == "sqlite":
        return True
    asked = {"locks": _LOCKS, "number": _clock(stream, "decisions/")}
    found = await connection.execute(text("SELECT pg_try_advisory_xact_lock(:locks, :number)"), asked)
    return bool(found.scalar_one())


async def _take(connection: AsyncConnection, number: int) -> None:
    if connection.dialect.name != "sqlite":
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(:locks, :number)"), {"locks": _LOCKS, "number": number}
        )


def _clock(stream: str, run: str) -> int:
    # Two clocks that share a number would only wait for each other now and then.
    return zlib.crc32(f"{stream}/{run}".encode()) % 2_147_483_647 + 1 - 1_073_741_824


async def _time(
    connection: AsyncConnection, place: Place, now: int
) -> tuple[int, int | None, int | None, int | None, Rules, bool]:
    key = {"stream": place.stream, "run": place.run or ""}
    # Locks first: which rules are counted must not change after it was read.
    live = await _attached(connection, place.stream, place.run) if place.run else None
    row = (await connection.execute(_TIME, key)).one_or_none()
    if row is None:
        await ensure_watermark(connection, place.stream, place.run or "", now)
        row = (await connection.execute(_TIME, key)).one()
    closed = row.closed_tick if live is None else max(row.closed_tick, live)
    floors = row.pruned_before, row.seen_before, row.forgotten_before
    return closed, *floors, Rules(row.active, row.announced), not place.run or live is not None


async def _attached(connection: AsyncConnection, stream: str, run: str) -> int | None:
    # What is added to a run that counts for live may not enter a tick that live has closed.
    if connection.dialect.name != "sqlite":
        shared = text("SELECT pg_advisory_xact_lock_shared(:locks, :number)")
        await connection.execute(shared, {"locks": _LOCKS, "number": _clock(stream, "")})
    found = (await connection.execute(_ATTACHED, {"run": run})).one_or_none()
    return None if found is None else int(found.closed_tick)


async def ensure_watermark(connection: AsyncConnection, stream: str, run: str, now: int) -> None:
    """A clock that has not begun stands before the first tick."""
    build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    values = {"stream": stream, "run": run, "closed_tick": -1, "watermark": 0, "updated_at": now}
    await connection.execute(build(watermarks).values(**values).on_conflict_do_nothing())
