"""A live arrival of what only a back-fill holds counts as new and takes over the row."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import bindparam, cast, column, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from pipeline.store import rows
from pipeline.store.bulk import Columns
from pipeline.store.known import Held
from schemas.counting import alert_history
from schemas.events import encode_json
from schemas.scores import HeadResult
from schemas.tables import Json, alerts, events

_FORMER = {"former_run": "run", "former_tick": "visible_tick"}


async def take_over(
    connection: AsyncConnection, held: Sequence[Held], constants: Mapping[str, Any], columns: dict[str, list[Any]]
) -> list[int | None]:
    """Make the rows live ones; the run keeps where it saw them. Returns the rows, None where another was faster.

    `constants` hold for every row, `columns` have one value a row. What the same bundle said of it before stays
    the truth: the event's score takes the stored heads.
    """
    if not held:
        return []
    ids = [each.row for each in held]
    # In the order of their numbers: two workers may want the same rows.
    free = select(events.c.id).where(events.c.id.in_(ids), events.c.run.is_not(None))
    taken = set((await connection.execute(free.order_by(events.c.id).with_for_update())).scalars())
    # Their alerts are raised anew, as live ones.
    of_run = alerts.c.event.in_(ids) & alerts.c.run.is_not(None)
    history = delete(alert_history).where(alert_history.c.alert.in_(select(alerts.c.id).where(of_run)))
    await connection.execute(history)
    await connection.execute(delete(alerts).where(of_run))
    mine = [index for index, row in enumerate(ids) if row in taken]
    if mine:
        await _update(connection, [ids[index] for index in mine], constants, rows.pick(columns, mine))
    for index in mine:
        _keep_heads(held[index], constants["bundle"])
    return [row if row in taken else None for row in ids]


def _keep_heads(held: Held, bundle: str) -> None:
    scored = held.event
    if held.heads is not None and held.bundle == bundle and scored.score:
        heads = msgspec.convert(held.heads, dict[str, HeadResult])
        scored.score = msgspec.structs.replace(scored.score, heads=heads)
        scored.heads = encode_json(held.heads)


async def _update(
    connection: AsyncConnection, ids: Sequence[int], constants: Mapping[str, Any], columns: Columns
) -> None:
    if connection.dialect.name == "sqlite":
        shared = tuple(constants.values())
        values = [(*shared, *row, each) for *row, each in zip(*columns.values(), ids, strict=True)]
        await connection.exec_driver_sql(_plain((*constants, *columns)), values)
    else:
        given = {f"own_{name}": value for name, value in {**constants, **columns, "id": ids}.items()}
        await connection.execute(_unnest(tuple(constants), tuple(columns)), given)


@lru_cache(maxsize=64)
def _plain(names: tuple[str, ...]) -> str:
    own = [f'"{name}" = ?' for name in names]
    former = [f'"{name}" = "{kept}"' for name, kept in _FORMER.items()]
    return f"UPDATE events SET {', '.join(own + former)} WHERE id = ?"


@lru_cache(maxsize=64)
def _unnest(constants: tuple[str, ...], names: tuple[str, ...]) -> Any:
    # Columns of many rows carry JSON as text.
    kinds = {name: Text() if events.c[name].type is Json else events.c[name].type for name in ("id", *names)}
    arrays = [bindparam(f"own_{name}", type_=ARRAY(kind)) for name, kind in kinds.items()]
    given = func.unnest(*arrays).table_valued(*[column(name, kind) for name, kind in kinds.items()])
    given = given.render_derived(name="given")
    own = {name: cast(given.c[name], JSONB) if events.c[name].type is Json else given.c[name] for name in names}
    own |= {name: bindparam(f"own_{name}", type_=events.c[name].type) for name in constants}
    former = {name: events.c[kept] for name, kept in _FORMER.items()}
    return update(events).where(events.c.id == given.c.id).values(**own, **former)
