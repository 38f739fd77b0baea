"""Which bundles read a stream until when: what is usual in the labels of one is not usual in those of another."""

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy import ColumnElement, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import ShareRule
from pipeline.store.confusions import confusion_of
from pipeline.surge.share import Confusion
from schemas.counting import readings
from schemas.tables import events, runs

# Ticks whose events are looked at in one transaction: a day.
_TICKS = 8_640
# In the place of a bundle: how far was looked.
_LOOKED = ""


class Reading(Struct, frozen=True):
    """What a head confuses, and the first bucket after the last label that was told by another head."""

    confusion: Confusion
    since: int

    @property
    def mark(self) -> tuple[int, int]:
        """Tells this reading from others."""
        return self.confusion.mark, self.since


async def look(connection: AsyncConnection, stream: str, last: int) -> bool:
    """Look which bundles read the live events up to tick `last`, some of them at a time; whether that is done.

    Whoever takes decisions does this, in the transaction of a decision: one at a time.
    """
    seen = (await _known(connection, stream)).get(_LOOKED, -1)
    if seen >= last:
        return True
    fresh = select(func.min(events.c.visible_tick)).where(
        events.c.stream == stream,
        events.c.visible_tick > seen,
        events.c.visible_tick <= last,
        events.c.run.is_(None),
    )
    first = (await connection.execute(fresh)).scalar_one()
    until = last if first is None else min(last, first + _TICKS - 1)
    found = {} if first is None else await _read_by(connection, stream, first, until, events.c.run.is_(None))
    await add(connection, stream, {**found, _LOOKED: until})
    return until == last


async def add(connection: AsyncConnection, stream: str, found: Mapping[str, int]) -> None:
    """Write down that these bundles read the stream until these ticks, or later where that is known."""
    known = await _known(connection, stream)
    later = {bundle: tick for bundle, tick in found.items() if tick > known.get(bundle, -1)}
    if later:
        own = (readings.c.stream == stream, readings.c.bundle.in_(list(later)))
        await connection.execute(delete(readings).where(*own))
        rows = [{"stream": stream, "bundle": bundle, "last_tick": tick} for bundle, tick in sorted(later.items())]
        await connection.execute(insert(readings), rows)


async def reading_of(connection: AsyncConnection, bundle: str, rule: ShareRule, ticks: int) -> Reading:
    """How a decision reads the label of a rule, by this bundle; `ticks` are those of a bucket.

    A bundle that confuses its labels as another one goes on with what is usual: a GPU's precision beside the CPU's
    is nothing to learn anew for.
    """
    return await _reading(connection, bundle, rule, ticks, await _known(connection, rule.stream))


async def reading_again(
    connection: AsyncConnection, bundle: str, rule: ShareRule, end: int, ticks: int
) -> Reading:
    """The same for a decision that was taken at tick `end`, from the events that counted then."""
    attached = select(runs.c.run).where(runs.c.stream == rule.stream, runs.c.attached_tick <= end)
    counted = or_(events.c.run.is_(None), events.c.run.in_(attached))
    # What is before the baseline and the window after it changes nothing.
    first = end - (rule.baseline + rule.window) // rule.every * ticks + 1
    read = await _read_by(connection, rule.stream, first, end, counted)
    return await _reading(connection, bundle, rule, ticks, read)


async def _reading(
    connection: AsyncConnection, bundle: str, rule: ShareRule, ticks: int, read: Mapping[str, int]
) -> Reading:
    confusion = await confusion_of(connection, bundle, rule)
    since = 0
    for other, last in read.items():
        if other in (bundle, _LOOKED) or last < since:
            continue
        if (await confusion_of(connection, other, rule)).mark != confusion.mark:
            since = last + 1
    return Reading(confusion, -(-since // ticks))


async def _known(connection: AsyncConnection, stream: str) -> dict[str, int]:
    query = select(readings.c.bundle, readings.c.last_tick).where(readings.c.stream == stream)
    return {row.bundle: row.last_tick for row in await connection.execute(query)}


async def _read_by(
    connection: AsyncConnection, stream: str, first: int, last: int, counted: ColumnElement[bool]
) -> dict[str, int]:
    """The last tick of each bundle between two ticks."""
    query = (
        select(events.c.bundle, func.max(events.c.visible_tick).label("tick"))
        .where(events.c.stream == stream, events.c.visible_tick.between(first, last), counted)
        .group_by(events.c.bundle)
    )
    return {row.bundle: row.tick for row in await connection.execute(query) if row.bundle}
