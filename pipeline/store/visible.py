"""Which events a decision at a tick may read: the same ones when it was taken and whenever it is replayed."""

from sqlalchemy import ColumnElement, Select, and_, case, or_, select

from pipeline.store.database import Database
from schemas.tables import events, runs


def live(stream: str, until: int) -> Select[tuple[int]]:
    """Ids of the events that count for live decisions of `stream` at tick `until`.

    Those of a back-fill count from the live tick to which their run is attached.
    """
    attached = runs.c.attached_tick
    tick: ColumnElement[int] = case(
        (events.c.run.is_(None), events.c.visible_tick),
        (events.c.visible_tick > attached, events.c.visible_tick),
        else_=attached,
    )
    return (
        select(events.c.id)
        .join_from(events, runs, runs.c.run == events.c.run, isouter=True)
        .where(
            events.c.stream == stream,
            events.c.visible_tick <= until,
            ~events.c.too_old,
            or_(events.c.run.is_(None), attached.is_not(None)),
            tick <= until,
        )
    )


def of_run(run: str, until: int) -> Select[tuple[int]]:
    """Ids of the events that count for a back-fill's own decisions at its tick `until`."""
    return select(events.c.id).where(
        or_(
            and_(events.c.run == run, events.c.visible_tick <= until),
            and_(events.c.former_run == run, events.c.former_tick <= until),
        ),
        ~events.c.too_old,
    )


async def read_ids(database: Database, query: Select[tuple[int]]) -> set[int]:
    """What such a query gives."""
    async with database.read() as connection:
        return {row.id for row in await connection.execute(query)}
