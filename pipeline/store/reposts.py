"""Alerts that a receiver must be told of again and again while they last, by a timer on the alert's row."""

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.notify import Notice, body_of
from pipeline.store.alerts import of_row
from pipeline.store.database import Database
from pipeline.store.notices import LEASE, note_failure
from schemas.counting import receivers, reposts
from schemas.tables import alerts

# States in which an alert lasts.
_LASTING = ("firing", "acknowledged")


async def claim(database: Database, name: str, now: int, limit: int) -> list[Notice]:
    """Lease up to `limit` alerts that the receiver is to be told of again; those that have ended are dropped."""
    query = (
        select(reposts.c.alert)
        .where(reposts.c.receiver == name, reposts.c.due_at < now, reposts.c.lease_until < now)
        .order_by(reposts.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    async with database.begin() as connection:
        due = (await connection.execute(query)).scalars().all()
        rows = (await connection.execute(select(alerts).where(alerts.c.id.in_(due)))).all()
        lasting = [row for row in rows if row.state in _LASTING]
        over = set(due) - {row.id for row in lasting}
        mine = reposts.c.receiver == name
        await connection.execute(delete(reposts).where(mine, reposts.c.alert.in_(over)))
        leased = mine & reposts.c.alert.in_([row.id for row in lasting])
        await connection.execute(update(reposts).where(leased).values(lease_until=now + LEASE * 1_000_000))
    found = []
    for row in lasting:
        body = body_of(of_row(row))
        found.append(Notice(f"{body.id}:again:to:{name}", msgspec.json.encode(body), alert=row.id))
    return found


async def told(database: Database, name: str, alert: int, now: int, after: int) -> None:
    """The receiver was told again, and is to be in `after` microseconds."""
    async with database.begin() as connection:
        well = {"sent_at": now, "failures": 0, "error": None}
        await connection.execute(update(receivers).where(receivers.c.name == name).values(well))
        await _rest(connection, name, alert, now + after)


async def missed(database: Database, name: str, alert: int, why: str, now: int, after: int) -> None:
    """The receiver was not told; it is tried again in `after` microseconds."""
    async with database.begin() as connection:
        await note_failure(connection, name, why, now, given_back=0)
        await _rest(connection, name, alert, now + after)


async def drop(database: Database, name: str) -> None:
    """The receiver has no need of being told again."""
    async with database.begin() as connection:
        await connection.execute(delete(reposts).where(reposts.c.receiver == name))


async def _rest(connection: AsyncConnection, name: str, alert: int, due_at: int) -> None:
    mine = (reposts.c.receiver == name) & (reposts.c.alert == alert)
    await connection.execute(update(reposts).where(mine).values(due_at=due_at, lease_until=0))
