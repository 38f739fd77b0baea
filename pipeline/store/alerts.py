"""Alerts in the database: raised by rules, changed by rules or a person; every change is a row of history."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk
from pipeline.work import AlertRow
from schemas.counting import alert_history
from schemas.tables import alerts

# Who changes an alert when no person does.
BY_RULE = "rule"


async def insert_alerts(
    connection: AsyncConnection, found: Sequence[AlertRow], run: str | None, now: int
) -> list[tuple[int, AlertRow]]:
    """Store alerts that are not there yet, each with a row of history; returns the new ones with their ids."""
    rows = [
        {
            "rule": each.rule,
            "group": each.group,
            "episode": each.episode,
            "kind": each.kind,
            "state": each.state,
            "version": each.version,
            "severity": each.severity,
            "stream": each.stream,
            "event": each.event,
            "run": run,
            "start_time": each.start,
            "end_time": each.end,
            "visible_tick": each.visible_tick,
            "definition": each.definition,
            "bundle": each.bundle,
            "evidence": each.evidence,
            "receivers": list(each.receivers) or None,
            "created_at": now,
            "updated_at": now,
        }
        for each in found
    ]
    stored = await bulk.insert_returning(connection, alerts, rows, ["rule", "group", "episode", "id"])
    ids = {(rule, group, episode): row_id for rule, group, episode, row_id in stored}
    new = []
    for each in found:
        row_id = ids.pop((each.rule, each.group, each.episode), None)
        if row_id is not None:
            each.id = row_id
            new.append((row_id, each))
    if new:
        history = [_history(row_id, each.version, each.state, now, BY_RULE, None) for row_id, each in new]
        await connection.execute(insert(alert_history), history)
    return new


async def change(
    connection: AsyncConnection,
    alert: int,
    state: str,
    now: int,
    *,
    author: str = BY_RULE,
    note: str | None = None,
    end: int | None = None,
) -> AlertRow:
    """Give an alert another state, and the end of its evidence where that is known; its version grows by one.

    The caller has locked the alert's row, or is the only one who changes it.
    """
    values: dict[str, Any] = {"state": state, "version": alerts.c.version + 1, "updated_at": now}
    if end is not None:
        values["end_time"] = end
    await connection.execute(update(alerts).where(alerts.c.id == alert).values(values))
    row = (await connection.execute(select(alerts).where(alerts.c.id == alert))).one()
    await connection.execute(insert(alert_history).values(_history(alert, row.version, state, now, author, note)))
    return of_row(row)


def of_row(row: Row[Any]) -> AlertRow:
    """An alert as it is stored."""
    return AlertRow(
        rule=row.rule,
        group=row.group,
        episode=row.episode,
        kind=row.kind,
        state=row.state,
        severity=row.severity,
        stream=row.stream,
        start=row.start_time,
        visible_tick=row.visible_tick,
        definition=row.definition,
        bundle=row.bundle,
        evidence=row.evidence,
        event=row.event,
        end=row.end_time,
        version=row.version,
        receivers=tuple(row.receivers or ()),
        id=row.id,
    )


def _history(alert: int, version: int, state: str, at: int, author: str, note: str | None) -> dict[str, Any]:
    return {"alert": alert, "version": version, "state": state, "at": at, "author": author, "note": note}
