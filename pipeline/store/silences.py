"""Silences: while one lasts, no receiver is told of the alerts that it names."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.database import Database
from pipeline.store.outbox import TO
from schemas.counting import rule_activations, silences
from schemas.errors import UsageError
from schemas.tables import alerts, outbox, rule_sets

# How the errors of entries begin that wait for the end of a silence.
HELD = "silenced until "


async def add_silence(
    database: Database, rule: str | None, group: str | None, now: int, until: int, author: str, comment: str
) -> dict[str, Any]:
    """Silence alerts of a rule, of a group, or of both, from now on; returns the row, `id` being its number.

    Raises:
        UsageError: it would name every alert, or would have no length.
    """
    if rule is None and group is None:
        raise UsageError("a silence names a rule, a group or an alert; to silence everything, stop the workers")
    if until <= now:
        raise UsageError("a silence lasts for some time; give --for, as in --for 2h")
    values = {
        "rule": rule,
        "group": group,
        "starts_at": now,
        "ends_at": until,
        "author": author,
        "comment": comment,
        "created_at": now,
    }
    async with database.begin() as connection:
        made = await connection.execute(insert(silences).values(**values).returning(silences.c.id))
        return {"id": made.scalar_one(), **values}


async def is_rule(database: Database, name: str) -> bool:
    """Whether a rule of this name is in force, on its way to be, or has an alert."""
    latest = select(func.max(rule_activations.c.sequence)).group_by(rule_activations.c.stream)
    announced = (
        select(rule_sets.c.rules)
        .join_from(rule_activations, rule_sets, rule_activations.c.version == rule_sets.c.version)
        .where(rule_activations.c.sequence.in_(latest))
    )
    async with database.read() as connection:
        found = (await connection.execute(announced)).scalars().all()
        told = await connection.execute(select(alerts.c.id).where(alerts.c.rule == name).limit(1))
        return any(rule["name"] == name for rules in found for rule in rules) or told.first() is not None


async def end_silence(database: Database, number: int, now: int) -> None:
    """End a silence now: what it held back is told at the next look.

    Raises:
        UsageError: there is none with this number, or it is over.
    """
    async with database.begin() as connection:
        query = select(silences.c.ends_at).where(silences.c.id == number).with_for_update()
        ends_at = (await connection.execute(query)).scalar_one_or_none()
        if ends_at is None:
            raise UsageError(f"there is no silence {number}; `salience alerts silences` lists them")
        if ends_at <= now:
            raise UsageError(f"silence {number} is over already")
        await connection.execute(update(silences).where(silences.c.id == number).values(ends_at=now))
        held = outbox.c.sent_at.is_(None) & outbox.c.receiver.startswith(TO) & outbox.c.error.startswith(HELD)
        await connection.execute(update(outbox).where(held).values(lease_until=now))


async def list_silences(database: Database, now: int, over: bool = False) -> list[dict[str, Any]]:
    """Silences that last, or all; the one that ends first comes first."""
    query = select(silences).order_by(silences.c.ends_at, silences.c.id)
    async with database.read() as connection:
        found = await connection.execute(query if over else query.where(silences.c.ends_at > now))
        return [dict(row) for row in found.mappings()]


async def lasting(connection: AsyncConnection, now: int) -> Sequence[Row[Any]]:
    """Silences that hold at this moment."""
    query = select(silences).where(silences.c.starts_at <= now, silences.c.ends_at > now)
    return (await connection.execute(query)).all()


def silenced_until(found: Sequence[Row[Any]], rule: str, group: str) -> int | None:
    """When the last of the silences that name an alert ends; None where there is none."""
    ends = [each.ends_at for each in found if each.rule in (None, rule) and each.group in (None, group)]
    return max(ends, default=None)
