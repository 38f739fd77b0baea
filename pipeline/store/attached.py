"""Back-fills that were attached: their rows count for live rules from the tick of the attachment on."""

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.counting import Counted
from pipeline.store import readings, stored
from pipeline.store.announce import BATCH, sightings_of
from pipeline.store.counters import count_stored
from pipeline.store.rulebook import count_rules
from schemas.counting import definitions
from schemas.tables import events, runs


async def count_batch(connection: AsyncConnection, stream: str, tick: int, width: int) -> bool:
    """Count some rows of a run that decisions at `tick` are to see; False when there is none. width: of a tick."""
    query = (
        select(runs)
        .where(runs.c.stream == stream, runs.c.attached_tick <= tick, ~runs.c.counted)
        .order_by(runs.c.attached_tick, runs.c.run)
        .limit(1)
        .with_for_update()
    )
    run = (await connection.execute(query)).one_or_none()
    if run is None:
        return False
    own = (events.c.stream == stream, events.c.run == run.run)
    begin = (
        run.counted_event
        or ((await connection.execute(select(func.min(events.c.id)).where(*own))).scalar() or 1) - 1
    )
    end = begin + BATCH
    wanted = stored.query().where(*own, stored.countable(), events.c.id > begin, events.c.id <= end)
    found = await stored.read(connection, wanted.order_by(events.c.id))
    more = select(events.c.id).where(*own, events.c.id > end).limit(1)
    await readings.add(
        connection, stream, await _read_by(connection, *own, events.c.id > begin, events.c.id <= end)
    )
    live = definitions.c.stopped_at.is_(None) & (definitions.c.stream == stream)
    for row in (await connection.execute(select(definitions).where(live).order_by(definitions.c.id))).all():
        counted = Counted(row.id, count_rules([row.rule])[0], width)
        recent = [each for each in found if each.tick >= row.since_tick]
        await count_stored(connection, sightings_of(counted, recent))
    values = {"counted_event": end, "counted": (await connection.execute(more)).first() is None}
    await connection.execute(update(runs).where(runs.c.run == run.run).values(values))
    return True


async def _read_by(connection: AsyncConnection, *which: ColumnElement[bool]) -> dict[str, int]:
    query = select(events.c.bundle, func.max(events.c.visible_tick).label("tick")).where(*which)
    return {
        row.bundle: row.tick for row in await connection.execute(query.group_by(events.c.bundle)) if row.bundle
    }


async def before(connection: AsyncConnection, stream: str, first: int, last: int) -> int:
    """The last tick before the next attachment after `first`, `last` at most."""
    query = select(func.min(runs.c.attached_tick)).where(
        runs.c.stream == stream, ~runs.c.counted, runs.c.attached_tick > first
    )
    found = (await connection.execute(query)).scalar_one()
    return last if found is None else min(last, found - 1)


async def counted_runs(connection: AsyncConnection, stream: str) -> int:
    """How many runs were attached and counted: baselines from before another one are taken anew."""
    query = select(func.count()).where(runs.c.stream == stream, runs.c.counted)
    return int((await connection.execute(query)).scalar_one())
