"""Messages that must go out and survive a crash: claimed by lease, so that one worker at a time sends each."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk
from pipeline.store.database import Database
from pipeline.store.known import from_row
from pipeline.work import VERSION_HEADER, Message
from schemas.tables import events, outbox

# Seconds for which a worker that claims a message is the one to send it.
LEASE = 60
# Seconds until a message that could not be sent is tried again: doubled with each attempt, up to the longest.
FIRST_WAIT = 5
LONGEST_WAIT = 900
# Characters kept of an error.
ERROR = 300
# What the column `receiver` begins with: a topic, or a receiver of the configuration.
TOPIC = "topic:"
TO = "to:"


async def put(
    connection: AsyncConnection, messages: Sequence[tuple[str, Message, int | None]], now: int, lease_until: int
) -> list[Message]:
    """Store (identity, message, event row), to be claimed after `lease_until` (microseconds).

    What is for a receiver may be claimed at once. Returns the messages whose identity was not there yet, with the
    number of their row.
    """
    for _, message, _ in messages:
        if message.version is not None and message.to is None:
            message.headers = [*message.headers, (VERSION_HEADER, str(message.version).encode())]
    rows = [
        {
            "identity": identity,
            "event": event,
            "alert": message.alert,
            "receiver": f"{TOPIC}{message.topic}" if message.to is None else f"{TO}{message.to}",
            "key": message.key,
            "value": message.value,
            "version": message.version,
            "headers": [[name, value.decode()] for name, value in message.headers],
            "created_at": now,
            "lease_until": lease_until if message.to is None else now,
            "attempts": 0,
        }
        for identity, message, event in messages
    ]
    stored = dict(await bulk.insert_returning(connection, outbox, rows, ["identity", "id"]))
    new = []
    for identity, message, _ in messages:
        message.outbox = stored.pop(identity, None)
        if message.outbox is not None:
            new.append(message)
    return new


async def claim(database: Database, now: int, limit: int = 100) -> list[Message]:
    """Take up to `limit` unsent messages for topics whose lease has run out, and lease them.

    A message of which the outbox has a higher version is not sent any more.
    """
    claimed: list[Any] = []
    async with database.begin() as connection:
        while len(claimed) < limit:
            rows = await _free(connection, now, limit - len(claimed))
            if not rows:
                break
            old = await _supersede(connection, rows, now)
            current = [row for row in rows if row["id"] not in old]
            lease = {"lease_until": now + LEASE * 1_000_000, "attempts": outbox.c.attempts + 1}
            taken = update(outbox).where(outbox.c.id.in_([row["id"] for row in current]))
            await connection.execute(taken.values(lease))
            claimed += current
    return [from_row(row) for row in claimed]


async def _free(connection: AsyncConnection, now: int, limit: int) -> Sequence[Any]:
    query = (
        select(outbox)
        .where(outbox.c.sent_at.is_(None), outbox.c.lease_until < now, outbox.c.receiver.startswith(TOPIC))
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(query)).mappings().all()


async def _supersede(connection: AsyncConnection, rows: Sequence[Any], now: int) -> set[int]:
    """Mark those of the rows that a higher version replaces; returns their numbers."""
    keys = {(row["receiver"], row["key"]) for row in rows if row["version"] is not None and row["key"] is not None}
    if not keys:
        return set()
    query = (
        select(outbox.c.receiver, outbox.c.key, func.max(outbox.c.version).label("version"))
        .where(tuple_(outbox.c.receiver, outbox.c.key).in_(list(keys)))
        .group_by(outbox.c.receiver, outbox.c.key)
    )
    latest = {(row.receiver, row.key): row.version for row in await connection.execute(query)}
    old = {}
    for row in rows:
        version = None if row["version"] is None else latest.get((row["receiver"], row["key"]))
        if version is not None and version > row["version"]:
            old[row["id"]] = version
    for number, version in old.items():
        told = {"sent_at": now, "error": f"superseded by version {version}"}
        await connection.execute(update(outbox).where(outbox.c.id == number).values(told))
    return set(old)


async def mark_sent(database: Database, rows: Sequence[int], now: int) -> None:
    """The broker has them."""
    async with database.begin() as connection:
        await confirm(connection, rows, now)


async def confirm(connection: AsyncConnection, rows: Sequence[int], now: int) -> None:
    """The broker has them: messages are marked; tombstones, which name a person, and those of pruned events go."""
    if not rows:
        return
    # A message outlived its event: what was pruned is found by nobody who forgets a person.
    pruned = outbox.c.event.is_not(None) & ~exists().where(events.c.id == outbox.c.event)
    gone = or_(outbox.c.value.is_(None), pruned)
    await connection.execute(delete(outbox).where(outbox.c.id.in_(rows), gone))
    await connection.execute(update(outbox).where(outbox.c.id.in_(rows)).values(sent_at=now, error=None))


async def mark_failed(database: Database, failures: Mapping[int, str], now: int) -> None:
    """Write down why each of these rows is still here, and let it rest before it is tried again."""
    async with database.begin() as connection:
        await mark_failures(connection, failures, now)


async def mark_failures(connection: AsyncConnection, failures: Mapping[int, str], now: int) -> None:
    """As `mark_failed`, in a transaction that does more."""
    query = select(outbox.c.id, outbox.c.attempts).where(outbox.c.id.in_(list(failures)))
    for row in (await connection.execute(query.order_by(outbox.c.id))).all():
        rest = {"lease_until": now + back_off(row.attempts), "error": failures[row.id][:ERROR]}
        unsent = update(outbox).where(outbox.c.id == row.id, outbox.c.sent_at.is_(None))
        await connection.execute(unsent.values(rest))


def back_off(attempts: int) -> int:
    """Microseconds until a message is tried again that failed `attempts` times."""
    doublings = min(max(attempts, 1) - 1, 20)
    wait: int = FIRST_WAIT * 2**doublings
    return min(wait, LONGEST_WAIT) * 1_000_000


async def waiting(database: Database) -> tuple[int, int | None]:
    """How many messages are unsent, and when the oldest of them was made (microseconds)."""
    query = select(func.count(), func.min(outbox.c.created_at)).where(outbox.c.sent_at.is_(None))
    async with database.read() as connection:
        count, oldest = (await connection.execute(query)).one()
    return count, oldest
