"""Many rows in one statement: arrays through unnest on PostgreSQL, executemany on SQLite."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import add
from typing import Any, Literal

from sqlalchemy import Table, bindparam, cast, column, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import JSON, Text, TypeEngine

from schemas.tables import events

_QUOTE = sqlite_dialect().identifier_preparer

Columns = Mapping[str, Sequence[Any]]
# What a value that is stored and a new one make together.
Merge = Literal["sum", "least", "greatest"]


async def insert_events(
    connection: AsyncConnection, constants: Mapping[str, Any], columns: Columns
) -> list[int | None]:
    """Insert events that are not there yet; returns the new row ids, None where the event was known.

    `constants` hold for every row, `columns` have one value a row; JSON columns take JSON text. Rows must
    differ in (source, event_id).
    """
    if connection.dialect.name == "sqlite":
        return await _insert_events_sqlite(connection, constants, columns)
    statement = _unnest_events(tuple(constants), tuple(columns))
    found = await connection.execute(statement, {**constants, **columns})
    ids = {(row.source, row.event_id): row.id for row in found}
    return [ids.get(key) for key in zip(columns["source"], columns["event_id"], strict=True)]


async def insert_all(connection: AsyncConnection, table: Table, columns: Columns) -> None:
    """Insert rows whose key is not there yet; JSON columns take JSON text."""
    if not next(iter(columns.values())):
        return
    names = tuple(columns)
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql(_plain(table, names), list(zip(*columns.values(), strict=True)))
    else:
        await connection.execute(_unnest(table, (), names), dict(columns))


async def insert_returning(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], returning: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Insert a few rows whose key is not there yet; returns the named columns of those that were new."""
    if not rows:
        return []
    build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    statement = build(table).on_conflict_do_nothing().returning(*[table.c[name] for name in returning])
    return [tuple(row) for row in await connection.execute(statement, list(rows))]


async def merge_all(
    connection: AsyncConnection, table: Table, columns: Columns, merged: Mapping[str, Merge]
) -> None:
    """Insert rows; where a key is there already, the columns that are named become what the two make together.

    Keys must differ, and come in one order wherever two transactions may meet.
    """
    if not next(iter(columns.values())):
        return
    names, how = tuple(columns), tuple(merged.items())
    if connection.dialect.name == "sqlite":
        rows = list(zip(*columns.values(), strict=True))
        await connection.exec_driver_sql(_plain_merging(table, names, how), rows)
    else:
        await connection.execute(_unnest_merging(table, names, how), dict(columns))


async def _insert_events_sqlite(
    connection: AsyncConnection, constants: Mapping[str, Any], columns: Columns
) -> list[int | None]:
    # The transaction holds SQLite's only write lock, so row ids can be given out here, and the common
    # case (all new) needs no RETURNING, which would cost twice as much.
    last = await connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'events'"))
    first = (last.scalar_one_or_none() or 0) + 1
    names = ("id", *constants, *columns)
    shared = tuple(constants.values())
    rows = [(first + index, *shared, *row) for index, row in enumerate(zip(*columns.values(), strict=True))]
    inserted = await connection.exec_driver_sql(_plain(events, names), rows)
    if inserted.rowcount == len(rows):
        return list(range(first, first + len(rows)))
    kept = await connection.execute(
        select(events.c.id).where(events.c.id >= first, events.c.id < first + len(rows)).order_by(events.c.id)
    )
    ids = set(kept.scalars())
    return [first + index if first + index in ids else None for index in range(len(rows))]


def _raw(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    # JSON comes as text already: it is encoded once, for the table and for the topic.
    return Text() if isinstance(kind, JSON) else kind


@lru_cache(maxsize=64)
def _plain(table: Table, names: tuple[str, ...]) -> str:
    # Written out, with rows as tuples: SQLite takes our values as they are, and SQLAlchemy's look at each of
    # them cost more than the insert itself.
    quote = _QUOTE.quote
    places = ", ".join("?" * len(names))
    columns = ", ".join(map(quote, names))
    return f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING"


@lru_cache(maxsize=64)
def _plain_merging(table: Table, names: tuple[str, ...], merged: tuple[tuple[str, Merge], ...]) -> str:
    quote = _QUOTE.quote
    keys = ", ".join(quote(each.name) for each in table.primary_key.columns)
    together = {"sum": "{0} + {1}", "least": "min({0}, {1})", "greatest": "max({0}, {1})"}
    sets = ", ".join(
        f"{quote(name)} = " + together[how].format(f"{quote(table.name)}.{quote(name)}", f"excluded.{quote(name)}")
        for name, how in merged
    )
    insert = _plain(table, names).removesuffix(" ON CONFLICT DO NOTHING")
    return f"{insert} ON CONFLICT ({keys}) DO UPDATE SET {sets}"


@lru_cache(maxsize=64)
def _unnest_merging(table: Table, names: tuple[str, ...], merged: tuple[tuple[str, Merge], ...]) -> Any:
    insert = _unnest(table, (), names, upsert=True)
    together: Mapping[Merge, Callable[..., Any]] = {"sum": add, "least": func.least, "greatest": func.greatest}
    sets = {name: together[how](table.c[name], insert.excluded[name]) for name, how in merged}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=sets)


@lru_cache(maxsize=64)
def _unnest(table: Table, constants: tuple[str, ...], names: tuple[str, ...], upsert: bool = False) -> Any:
    arrays = [bindparam(name, type_=ARRAY(_raw(table.c[name].type))) for name in names]
    rows = func.unnest(*arrays).table_valued(*[column(name, _raw(table.c[name].type)) for name in names])
    rows = rows.render_derived(name="given")
    chosen = [
        *[cast(bindparam(name, type_=table.c[name].type), table.c[name].type) for name in constants],
        *[cast(rows.c[name], JSONB) if isinstance(table.c[name].type, JSON) else rows.c[name] for name in names],
    ]
    source = select(*chosen).select_from(rows)
    insert = postgresql_insert(table).from_select([*constants, *names], source)
    return insert if upsert else insert.on_conflict_do_nothing()


@lru_cache(maxsize=64)
def _unnest_events(constants: tuple[str, ...], names: tuple[str, ...]) -> Any:
    return _unnest(events, constants, names).returning(events.c.id, events.c.source, events.c.event_id)
