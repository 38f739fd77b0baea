"""Where a partition and its stream stand: locked first in a chunk's transaction."""

from msgspec import Struct
from sqlalchemy import bindparam, select, true
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.events import Place
from schemas.tables import instance, progress, watermarks

# Built once: SQLAlchemy takes longer to build a statement than to run it from its cache.
_PROGRESS = (
    select(progress.c.stored, progress.c.published, progress.c.sequence)
    .where(*[progress.c[name] == bindparam(name) for name in ("cluster", "topic", "incarnation", "partition")])
    .with_for_update()
)
_TIME = (
    select(watermarks.c.closed_tick, instance.c.pruned_before, instance.c.seen_before)
    .join_from(watermarks, instance, true())
    .where(watermarks.c.stream == bindparam("stream"), watermarks.c.run == bindparam("run"))
    .with_for_update(read=True)
)


class Clock(Struct, frozen=True):
    """Offsets are the next ones; ticks count from 1970; the floors are event times in microseconds."""

    stored: int
    published: int
    sequence: int
    closed_tick: int
    pruned_before: int | None
    seen_before: int | None


async def lock(connection: AsyncConnection, place: Place, now: int) -> Clock:
    """Lock the partition's progress, and hold the stream's clock and the retention floor where they are.

    Two workers that both believe to own a partition take turns here; closing a tick or pruning waits for
    the chunks in flight.
    """
    key = {
        "cluster": place.cluster,
        "topic": place.topic,
        "incarnation": place.incarnation,
        "partition": place.partition,
    }
    row = (await connection.execute(_PROGRESS, key)).one_or_none()
    if row is None:
        build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
        first = dict.fromkeys(("stored", "published", "sequence", "new", "repeated", "dead"), 0)
        values = {**key, **first, "stream": place.stream, "updated_at": now}
        await connection.execute(build(progress).values(**values).on_conflict_do_nothing())
        row = (await connection.execute(_PROGRESS, key)).one()
    time = await _time(connection, place, now)
    return Clock(row.stored, row.published, row.sequence, *time)


async def _time(connection: AsyncConnection, place: Place, now: int) -> tuple[int, int | None, int | None]:
    key = {"stream": place.stream, "run": place.run or ""}
    row = (await connection.execute(_TIME, key)).one_or_none()
    if row is None:
        build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
        values = {**key, "closed_tick": -1, "watermark": 0}
        await connection.execute(build(watermarks).values(**values, updated_at=now).on_conflict_do_nothing())
        row = (await connection.execute(_TIME, key)).one()
    return row.closed_tick, row.pruned_before, row.seen_before
