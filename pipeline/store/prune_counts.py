"""What rules counted goes with the events it was counted from; of rules that are not used any more all of it."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.announce import looks_back
from pipeline.store.collapse import MEMORY
from pipeline.store.database import Database
from pipeline.store.rulebook import count_rules
from schemas.counting import counters, definitions, groups, sightings, silences, stories
from schemas.tables import instance

# Microseconds for which a rule that was taken out may come back without being counted anew.
_KEPT = 86_400 * 1_000_000

Step = Callable[[Callable[[AsyncConnection], Awaitable[int]]], Awaitable[int]]


async def prune_counts(database: Database, step: Step, now: int, older_than: int, batch: int) -> dict[str, int]:
    """Delete what is older than `older_than` and no decision needs; returns how many rows of each table went.

    step: runs one transaction. batch: rows that one deletes. Times in microseconds.
    """
    async with database.read() as connection:
        tick = (await connection.execute(select(instance.c.tick))).scalar_one()
        known = (await connection.execute(select(definitions).order_by(definitions.c.id))).mappings().all()
    gone = dict.fromkeys(("sightings", "counters", "stories", "groups", "definitions", "silences"), 0)

    async def drop(table: Table, old: ColumnElement[bool]) -> None:
        count = batch
        while count == batch:
            count = await step(partial(_drop, table=table, old=old, batch=batch))
            gone[table.name] += count

    for row in known:
        number = row["id"]
        if row["stopped_at"] is not None and row["stopped_at"] < now - _KEPT:
            for table in (sightings, counters, stories, groups):
                await drop(table, table.c.definition == number)
            await drop(definitions, definitions.c.id == number)
            continue
        rule = count_rules([row["rule"]])[0]
        floor = now - max(older_than, looks_back(rule))
        await drop(sightings, (sightings.c.definition == number) & (sightings.c.tick < floor // tick))
        await drop(counters, (counters.c.definition == number) & (counters.c.bucket < floor // rule.every))
        await drop(groups, (groups.c.definition == number) & (groups.c.last_tick < floor // tick))
        told = (now - max(older_than, 2 * MEMORY)) // tick
        await drop(stories, (stories.c.definition == number) & (stories.c.tick < told))
    await drop(silences, silences.c.ends_at < now - older_than)
    return gone


async def _drop(connection: AsyncConnection, table: Table, old: ColumnElement[bool], batch: int) -> int:
    keys = list(table.primary_key.columns)
    found: Select[Any] = select(*keys).where(old).limit(batch)
    rows = [tuple(row) for row in (await connection.execute(found)).all()]
    if rows:
        await connection.execute(delete(table).where(tuple_(*keys).in_(rows)))
    return len(rows)
