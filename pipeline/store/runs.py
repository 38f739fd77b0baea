"""Back-fills, each a run with a name; attached to a live tick its rows count for live rules."""

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from pipeline.store.clock import ensure_watermark, stop_clock
from pipeline.store.database import Database
from schemas.errors import UsageError
from schemas.events import Place
from schemas.tables import events, runs, watermarks


async def begin(database: Database, place: Place, file: str, notify: bool, now: int) -> None:
    """Write down that a run begins; a run that is repeated keeps its first beginning."""
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    values = {"run": place.run, "stream": place.stream, "file": file, "notify": notify, "started_at": now}
    async with database.begin() as connection:
        await connection.execute(build(runs).values(**values).on_conflict_do_nothing())
        stream = (await connection.execute(select(runs.c.stream).where(runs.c.run == place.run))).scalar_one()
    if stream != place.stream:
        raise UsageError(f"the run {place.run} is a back-fill of {stream}; give this one another name with --run")


async def finish(database: Database, place: Place, now: int) -> None:
    """Write down that a run has ended."""
    async with database.begin() as connection:
        await connection.execute(update(runs).where(runs.c.run == place.run).values(finished_at=now))


async def attach(database: Database, run: str, now: int) -> int:
    """Let the rows of a finished run count for live decisions; returns the first tick that sees them.

    Attaching it again changes nothing.

    Raises:
        UsageError: there is no such run, or it has not ended.
    """
    async with database.begin() as connection:
        found = (await connection.execute(select(runs).where(runs.c.run == run))).one_or_none()
        if found is None:
            raise UsageError(f"there is no run {run}; `salience runs list` shows those that are there")
        if found.finished_at is None:
            raise UsageError(f"the run {run} has not ended; run its back-fill again to its end, then attach it")
        # In this order: a chunk of an attached run asks for its own clock first, then for the live one.
        await stop_clock(connection, found.stream, run)
        await stop_clock(connection, found.stream, "")
        await ensure_watermark(connection, found.stream, "", now)
        live = select(watermarks.c.closed_tick).where(watermarks.c.stream == found.stream, watermarks.c.run == "")
        tick = (await connection.execute(live)).scalar_one() + 1
        unattached = update(runs).where(runs.c.run == run, runs.c.attached_tick.is_(None))
        await connection.execute(unattached.values(attached_tick=tick))
        return int((await connection.execute(select(runs.c.attached_tick).where(runs.c.run == run))).scalar_one())


async def list_runs(database: Database) -> list[dict[str, Any]]:
    """The newest first, each with the number of rows that are still its own."""
    query = (
        select(runs, func.count(events.c.id).label("events"))
        .join_from(runs, events, events.c.run == runs.c.run, isouter=True)
        .group_by(*runs.c)
        .order_by(runs.c.started_at.desc(), runs.c.run)
    )
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]
