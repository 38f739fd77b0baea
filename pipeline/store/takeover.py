"""A live arrival of what only a back-fill holds counts as new and takes over the row."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.known import Held
from schemas.events import encode_json
from schemas.scores import HeadResult
from schemas.tables import Json, alerts, events

_JSON = {column.name for column in events.columns if column.type is Json}


async def take_over(connection: AsyncConnection, held: Held, values: Mapping[str, Any]) -> int | None:
    """Make the row a live one; the run keeps where it saw it. Returns the row, None if another was faster.

    What the same bundle said of it before stays the truth: the event's score takes the stored heads.
    """
    own = {name: _plain(name, value) for name, value in values.items()}
    former = {"former_run": events.c.run, "former_tick": events.c.visible_tick}
    statement = (
        update(events)
        .where(events.c.id == held.row, events.c.run.is_not(None))
        .values(**own, **former)
        .returning(events.c.id)
    )
    taken: int | None = (await connection.execute(statement)).scalar_one_or_none()
    # Its alerts are raised anew, as live ones.
    await connection.execute(delete(alerts).where(alerts.c.event == held.row, alerts.c.run.is_not(None)))
    scored = held.event
    if taken is not None and held.heads is not None and held.bundle == values["bundle"] and scored.score:
        scored.score = msgspec.structs.replace(
            scored.score, heads=msgspec.convert(held.heads, dict[str, HeadResult])
        )
        scored.heads = encode_json(held.heads)
    return taken


def _plain(name: str, value: Any) -> Any:
    # Columns of many rows carry JSON as text.
    return msgspec.json.decode(value) if name in _JSON and value is not None else value
