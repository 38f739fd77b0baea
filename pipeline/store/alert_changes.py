"""What a person does with alerts: find, acknowledge, resolve; each change with its notifications at once."""

from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.notify import messages, state_of
from pipeline.store import outbox as box
from pipeline.store.alerts import change
from pipeline.store.database import Database
from pipeline.times import rfc3339
from pipeline.work import AlertRow, alert_name
from schemas.counting import alert_history
from schemas.errors import UsageError
from schemas.tables import alerts, outbox

# From which states a person may bring an alert into another, and what to call doing so.
_FROM = {"acknowledged": ("firing",), "resolved": ("pending", "firing", "acknowledged")}


async def set_state(
    database: Database, which: str, state: str, now: int, author: str, note: str | None, topic: str
) -> AlertRow:
    """Acknowledge or resolve the alert with this row id or name, and tell the topic and its receivers.

    What fires is the rule's alone to say: when it may fire again does not depend on this.

    Raises:
        UsageError: there is no such alert, or its state does not allow it.
    """
    async with database.begin() as connection:
        row = await _one(connection, _found(which).with_for_update(), which)
        if row.state not in _FROM[state]:
            raise UsageError(await _why_not(connection, row, state))
        changed = await change(connection, row.id, state, now, author=author, note=note)
        await box.put(connection, messages(topic, changed), now, now)
        return changed


async def find(database: Database, which: str) -> Row[Any]:
    """The alert with this row id or name.

    Raises:
        UsageError: there is no such alert.
    """
    async with database.read() as connection:
        return await _one(connection, _found(which), which)


async def list_alerts(
    database: Database, state: str | None, rule: str | None, since: int | None, limit: int
) -> list[dict[str, Any]]:
    """The newest first; `since` is when they were raised at the earliest, microseconds."""
    query = select(alerts).order_by(alerts.c.created_at.desc(), alerts.c.id.desc()).limit(limit)
    for column, value in ((alerts.c.state, state), (alerts.c.rule, rule)):
        query = query if value is None else query.where(column == value)
    if since is not None:
        query = query.where(alerts.c.created_at >= since)
    async with database.read() as connection:
        return [shown(row) for row in await connection.execute(query)]


async def count_by_state(database: Database) -> dict[str, int]:
    """How many alerts are in each state."""
    query = select(alerts.c.state, func.count()).group_by(alerts.c.state).order_by(alerts.c.state)
    async with database.read() as connection:
        return {row[0]: row[1] for row in await connection.execute(query)}


async def history(database: Database, alert: int) -> list[dict[str, Any]]:
    """Every change, the first one first."""
    query = select(alert_history).where(alert_history.c.alert == alert).order_by(alert_history.c.version)
    names = ("version", "state", "author", "note")
    async with database.read() as connection:
        found = (await connection.execute(query)).mappings().all()
    return [{name: row[name] for name in names} | {"at": rfc3339(row["at"])} for row in found]


async def deliveries(database: Database, alert: int) -> list[dict[str, Any]]:
    """What was said of it to whom: `outcome` is sent, withheld or waiting, `error` says why."""
    query = select(outbox).where(outbox.c.alert == alert).order_by(outbox.c.id)
    async with database.read() as connection:
        return [_delivery(row) for row in await connection.execute(query)]


def shown(row: Row[Any]) -> dict[str, Any]:
    """An alert for people and programs, without its evidence."""
    same = ("id", "rule", "group", "episode", "kind", "state", "severity", "version", "stream")
    return {
        **{name: getattr(row, name) for name in same},
        "name": alert_name(row.rule, row.group, row.episode),
        "start": rfc3339(row.start_time),
        "end": None if row.end_time is None else rfc3339(row.end_time),
        "receivers": row.receivers or [],
        "raised": rfc3339(row.created_at),
        "updated": rfc3339(row.updated_at),
    }


def _delivery(row: Row[Any]) -> dict[str, Any]:
    kind, _, name = row.receiver.partition(":")
    outcome = "waiting" if row.sent_at is None else "sent" if row.error is None else "withheld"
    state = state_of(row.identity) if kind == "to" else ""
    return {
        "kind": "topic" if kind == "topic" else "receiver",
        "receiver": name,
        "state": state,
        "version": row.version,
        "outcome": outcome,
        "attempts": row.attempts,
        "sent": None if row.sent_at is None else rfc3339(row.sent_at),
        "error": row.error,
    }


def _found(which: str) -> Select[Any]:
    if which.isascii() and which.isdigit() and len(which) < 19:
        return select(alerts).where(alerts.c.id == int(which))
    name = alerts.c.rule + "/" + alerts.c.group + "/" + alerts.c.episode
    return select(alerts).where(alerts.c.rule == which.partition("/")[0], name == which)


async def _one(connection: AsyncConnection, query: Select[Any], which: str) -> Row[Any]:
    row: Row[Any] | None = (await connection.execute(query)).one_or_none()
    if row is None:
        raise UsageError(f"there is no alert {which}; `salience alerts list` shows ids and, with --json, names")
    return row


async def _why_not(connection: AsyncConnection, row: Row[Any], state: str) -> str:
    about = f"alert {row.id} ({alert_name(row.rule, row.group, row.episode)})"
    if row.state == "fired":
        return f"{about} is about a single event, and fired is its only state; it cannot be {state}"
    query = select(alert_history).where(alert_history.c.alert == row.id, alert_history.c.version == row.version)
    last = (await connection.execute(query)).one_or_none()
    whose = "" if last is None else f" since {rfc3339(last.at)}, by {last.author}"
    if row.state == state:
        return f"{about} is {state} already{whose}"
    return f"{about} is {row.state}{whose}; {state} can be what is {' or '.join(_FROM[state])}"
