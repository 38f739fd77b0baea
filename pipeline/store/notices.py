"""What receivers are told: claimed by lease, each receiver by itself, within its rate, not in a silence."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Row, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.notify import Notice, state_of
from pipeline.receivers import Receiver
from pipeline.store import bulk
from pipeline.store import outbox as box
from pipeline.store.database import Database
from pipeline.store.silences import HELD, lasting, silenced_until
from pipeline.times import rfc3339
from pipeline.verdicts import Entry, Held, Send, Verdict, Withheld, judge
from schemas.counting import receivers, reposts
from schemas.tables import alerts, outbox

# Seconds for which a worker that claims notices is the one to send them: longer than a batch can take.
LEASE = 60
# Entries looked at in one statement.
_LOOK = 100


class Claimed(Struct):
    """Notices to be sent now, and how many entries were found that nobody is told of."""

    notices: list[Notice]
    withheld: int = 0


async def due(database: Database, now: int) -> dict[str, int]:
    """Names of the receivers for which something is to be done, and how many entries wait."""
    waiting = (
        select(outbox.c.receiver, func.count())
        .where(outbox.c.sent_at.is_(None), outbox.c.lease_until < now, outbox.c.receiver.startswith(box.TO))
        .group_by(outbox.c.receiver)
    )
    again = select(reposts.c.receiver).where(reposts.c.due_at < now, reposts.c.lease_until < now).distinct()
    async with database.read() as connection:
        found = {row[0].removeprefix(box.TO): row[1] for row in await connection.execute(waiting)}
        for name in (await connection.execute(again)).scalars():
            found.setdefault(name, 0)
    return found


async def explain_unknown(database: Database, name: str, now: int) -> None:
    """Write down that this receiver's entries wait because no configuration here has it; others may claim them."""
    why = f"no receiver {name} in the rules file of this worker; add it under `receivers:`, and it will be told"
    other = or_(outbox.c.error.is_(None), outbox.c.error != why)
    free = and_(outbox.c.sent_at.is_(None), outbox.c.lease_until < now)
    unsent = and_(outbox.c.receiver == box.TO + name, free, other)
    async with database.begin() as connection:
        ids = (await connection.execute(select(outbox.c.id).where(unsent).order_by(outbox.c.id))).scalars().all()
        for start in range(0, len(ids), _LOOK):
            some = outbox.c.id.in_(ids[start : start + _LOOK])
            await connection.execute(update(outbox).where(some).values(error=why))


async def claim(database: Database, name: str, receiver: Receiver, now: int, limit: int) -> Claimed:
    """Take up to `limit` entries of a receiver that are to be sent now, and lease them.

    Of the others it is written down why they wait, or why nobody is told.
    """
    async with database.begin() as connection:
        allowed = min(limit, await _allowance(connection, name, receiver, now))
        claimed, after = Claimed([]), 0
        while len(claimed.notices) < allowed:
            rows = await _free(connection, name, now, after)
            if not rows:
                break
            after = rows[-1].id
            await _sort_out(connection, receiver, rows, now, allowed, claimed)
        if receiver.rate is not None and claimed.notices:
            sent = receivers.c.window_sent + len(claimed.notices)
            await connection.execute(update(receivers).where(receivers.c.name == name).values(window_sent=sent))
        return claimed


async def _allowance(connection: AsyncConnection, name: str, receiver: Receiver, now: int) -> int:
    """How many messages may go out now. The receiver's row is locked: all workers share its rate."""
    new = {"name": name, "failures": 0, "window_start": now, "window_sent": 0}
    await bulk.insert_returning(connection, receivers, [new], ["name"])
    row = (await connection.execute(select(receivers).where(receivers.c.name == name).with_for_update())).one()
    if receiver.rate is None:
        return _LOOK
    if now >= row.window_start + receiver.rate.period:
        fresh = {"window_start": now, "window_sent": 0}
        await connection.execute(update(receivers).where(receivers.c.name == name).values(fresh))
        return receiver.rate.count
    left: int = receiver.rate.count - row.window_sent
    return max(0, left)


async def _free(connection: AsyncConnection, name: str, now: int, after: int) -> Sequence[Row[Any]]:
    query = (
        select(outbox)
        .where(outbox.c.receiver == box.TO + name, outbox.c.sent_at.is_(None), outbox.c.lease_until < now)
        .where(outbox.c.id > after)
        .order_by(outbox.c.id)
        .limit(_LOOK)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(query)).all()


async def _sort_out(
    connection: AsyncConnection, receiver: Receiver, rows: Sequence[Row[Any]], now: int, allowed: int, to: Claimed
) -> None:
    known = await _entries(connection, rows, now)
    for row in rows:
        if len(to.notices) == allowed:
            return
        verdict = judge(known[row.id], receiver, now)
        await _write(connection, row, verdict, now)
        known[row.id].take(verdict)
        if isinstance(verdict, Send):
            reached = [int(value) for header, value in row.headers if header == _REACHED]
            to.notices.append(Notice(row.identity, row.value, row.id, row.alert, reached))
        to.withheld += isinstance(verdict, Withheld)


# Header of an entry: the number of an address of its receiver that has it already.
_REACHED = "reached"


async def _write(connection: AsyncConnection, row: Row[Any], verdict: Verdict, now: int) -> None:
    values: dict[str, Any]
    if isinstance(verdict, Send):
        values = {"lease_until": now + LEASE * 1_000_000, "attempts": row.attempts + 1, "error": None}
    elif isinstance(verdict, Held):
        values = {"lease_until": verdict.until, "error": f"{HELD}{rfc3339(verdict.until)}"}
    elif isinstance(verdict, Withheld):
        values = {"sent_at": now, "error": verdict.why}
    else:
        return
    await connection.execute(update(outbox).where(outbox.c.id == row.id).values(values))


async def _entries(connection: AsyncConnection, rows: Sequence[Row[Any]], now: int) -> dict[int, Entry]:
    """The entries as they are judged: with their alert, what silences it, and the other entries about it."""
    names = [row.alert for row in rows if row.alert is not None]
    query = select(alerts.c.id, alerts.c.rule, alerts.c.group, alerts.c.state, alerts.c.severity)
    about = {row.id: row for row in await connection.execute(query.where(alerts.c.id.in_(names)))}
    again = select(reposts.c.alert).where(
        reposts.c.alert.in_(names),
        reposts.c.receiver == rows[0].receiver.removeprefix(box.TO),
        reposts.c.lease_until >= now,
    )
    reposting = set((await connection.execute(again)).scalars())
    siblings = await _siblings(connection, rows[0].receiver, names, now)
    silences = await lasting(connection, now)
    found = {}
    for row in rows:
        alert = about.get(row.alert)
        entry = siblings.get(row.id) or _entry(row, now)
        entry.others = [each for each in siblings.values() if each.alert == row.alert and each is not entry]
        if alert is not None:
            entry.over = alert.state == "resolved"
            entry.severity = alert.severity
            entry.silenced = silenced_until(silences, alert.rule, alert.group)
        entry.reposting = row.alert in reposting
        found[row.id] = entry
    return found


async def _siblings(
    connection: AsyncConnection, receiver: str, names: Sequence[int], now: int
) -> dict[int, Entry]:
    query = select(outbox).where(outbox.c.alert.in_(names), outbox.c.receiver == receiver)
    return {row.id: _entry(row, now) for row in await connection.execute(query.order_by(outbox.c.id))}


def _entry(row: Row[Any], now: int) -> Entry:
    return Entry(
        alert=row.alert,
        state=state_of(row.identity),
        version=row.version or 0,
        empty=row.value is None,
        error=row.error,
        done=row.sent_at is not None,
        # What rests after a failure has an error; what is being sent has none.
        leased=row.sent_at is None and row.lease_until >= now and row.attempts > 0 and row.error is None,
    )


async def mark_told(database: Database, name: str, notice: Notice, now: int, repost: int | None) -> None:
    """The receiver has it. With `repost` (microseconds) it is told again after that time, until the alert ends."""
    async with database.begin() as connection:
        well = {"sent_at": now, "failures": 0, "error": None}
        await connection.execute(update(receivers).where(receivers.c.name == name).values(well))
        await box.confirm(connection, [notice.row], now)
        if notice.alert is None:
            return
        state = state_of(notice.identity)
        if state == "resolved":
            mine = (reposts.c.alert == notice.alert) & (reposts.c.receiver == name)
            await connection.execute(delete(reposts).where(mine))
        elif repost is not None and state == "firing":
            new = {"alert": notice.alert, "receiver": name, "due_at": now + repost, "lease_until": 0}
            await bulk.insert_returning(connection, reposts, [new], ["alert"])


async def mark_missed(
    database: Database, name: str, notice: Notice, why: str, reached: Sequence[int], now: int
) -> None:
    """The receiver does not have it: it rests before it is tried again, its share of the rate is given back."""
    headers = [[_REACHED, str(number)] for number in sorted(reached)]
    async with database.begin() as connection:
        await note_failure(connection, name, why, now, given_back=1)
        unsent = update(outbox).where(outbox.c.id == notice.row, outbox.c.sent_at.is_(None))
        await connection.execute(unsent.values(headers=headers))
        await box.mark_failures(connection, {notice.row: why}, now)


async def note_failure(connection: AsyncConnection, name: str, why: str, now: int, given_back: int) -> None:
    """A receiver failed once more since it was last told."""
    row = (
        await connection.execute(select(receivers).where(receivers.c.name == name).with_for_update())
    ).one_or_none()
    if row is None:
        return
    values: Mapping[str, Any] = {
        "failed_at": now,
        "failures": row.failures + 1,
        "error": why[: box.ERROR],
        "window_sent": max(0, row.window_sent - given_back),
    }
    await connection.execute(update(receivers).where(receivers.c.name == name).values(values))
