"""From which tick on which bundle reads a stream: what is usual in its labels is not usual in those of another."""

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import ShareRule
from pipeline.store import bulk
from pipeline.store.confusions import confusion_of
from pipeline.surge.share import Confusion
from schemas.counting import readings


class Reading(Struct, frozen=True):
    """What a head confuses, and the first bucket from which all labels were told by such a head."""

    confusion: Confusion
    since: int

    @property
    def mark(self) -> tuple[int, int]:
        """Tells this reading from others."""
        return self.confusion.mark, self.since


async def note(connection: AsyncConnection, stream: str, bundle: str, tick: int) -> None:
    """Write down that a bundle reads a stream from a tick on, unless it is the latest that was written down."""
    latest = select(readings.c.bundle).where(readings.c.stream == stream)
    latest = latest.order_by(readings.c.first_tick.desc(), readings.c.bundle.desc()).limit(1)
    if (await connection.execute(latest)).scalar_one_or_none() != bundle:
        await bulk.insert_all(connection, readings, {"stream": [stream], "first_tick": [tick], "bundle": [bundle]})


async def reading_of(connection: AsyncConnection, bundle: str, rule: ShareRule, tick: int, ticks: int) -> Reading:
    """How the label of a rule is read at a tick by a bundle; `ticks` are those of a bucket.

    A bundle that confuses its labels as the one before did goes on with what is usual: a workers' GPU precision
    beside the CPU's is none to learn anew for. Where no change was written down, there was none.
    """
    confusion = await confusion_of(connection, bundle, rule)
    query = (
        select(readings.c.first_tick, readings.c.bundle)
        .where(readings.c.stream == rule.stream, readings.c.first_tick <= tick)
        .order_by(readings.c.first_tick.desc(), readings.c.bundle.desc())
    )
    marks = {bundle: confusion.mark}
    since = tick + 1
    for row in (await connection.execute(query)).all():
        if row.bundle not in marks:
            marks[row.bundle] = (await confusion_of(connection, row.bundle, rule)).mark
        if marks[row.bundle] != confusion.mark:
            return Reading(confusion, -(-since // ticks))
        since = row.first_tick
    return Reading(confusion, 0)
