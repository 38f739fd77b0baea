"""Messages that outlived their chunk: claimed by lease, so that one worker at a time sends each."""

from collections.abc import Sequence

from sqlalchemy import select, update

from pipeline.store.database import Database
from pipeline.store.known import from_row
from pipeline.work import Message
from schemas.tables import outbox

# Seconds for which a worker that claims a message is the one to send it.
LEASE = 60


async def claim(database: Database, now: int, limit: int = 100) -> list[Message]:
    """Take up to `limit` unsent messages whose lease has run out, and lease them."""
    free = (
        select(outbox)
        .where(outbox.c.sent_at.is_(None), outbox.c.lease_until < now)
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    async with database.begin() as connection:
        rows = (await connection.execute(free)).mappings().all()
        if rows:
            taken = update(outbox).where(outbox.c.id.in_([row["id"] for row in rows]))
            lease = {"lease_until": now + LEASE * 1_000_000, "attempts": outbox.c.attempts + 1}
            await connection.execute(taken.values(lease))
    return [from_row(row) for row in rows]


async def mark_sent(database: Database, rows: Sequence[int], now: int) -> None:
    """The broker has them."""
    async with database.begin() as connection:
        await connection.execute(update(outbox).where(outbox.c.id.in_(rows)).values(sent_at=now, error=None))


async def mark_failed(database: Database, row: int, error: str) -> None:
    """Write down why it is still here; its lease decides when it is tried again."""
    async with database.begin() as connection:
        await connection.execute(update(outbox).where(outbox.c.id == row).values(error=error[:300]))
