"""What alerts quote of events that go: taken out of their evidence and of what waits to be told, or was."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline import wording
from pipeline.notify import Entry, correction
from pipeline.store.alerts import change
from schemas.counting import alert_events
from schemas.tables import alerts, outbox

FORGOTTEN = "forgotten"
PRUNED = "pruned"

_AUTHOR = "forget"
_NOTE = "a text that it quotes was forgotten"


async def take_out(connection: AsyncConnection, events: Collection[int], mark: str) -> list[Row[Any]]:
    """Blank what alerts quote of these events, in the alerts and in the outbox; returns those alerts, locked.

    Of an example that goes, only `{mark: true}` is left, and with a forgotten one the terms that no other has.
    """
    quoting = select(alert_events.c.alert).where(alert_events.c.event.in_(events)).distinct()
    query = select(alerts).where(alerts.c.id.in_(quoting)).order_by(alerts.c.id).with_for_update()
    found = (await connection.execute(query)).all()
    for row in found:
        evidence = without(row.evidence, events, mark)
        await connection.execute(update(alerts).where(alerts.c.id == row.id).values(evidence=evidence))
    await _blank_entries(connection, [row.id for row in found], events, mark)
    await connection.execute(delete(alert_events).where(alert_events.c.event.in_(events)))
    return list(found)


async def corrections(connection: AsyncConnection, found: Sequence[Row[Any]], topic: str, now: int) -> list[Entry]:
    """A new version of each of the alerts, for the topic; nobody else is told again."""
    told = []
    for row in found:
        changed = await change(connection, row.id, row.state, now, author=_AUTHOR, note=_NOTE)
        told.append(correction(topic, changed))
    return told


async def delete_told(connection: AsyncConnection, found: Sequence[Row[Any]]) -> int:
    """Delete what was sent about these alerts; returns how many messages went."""
    mine = outbox.c.alert.in_([row.id for row in found])
    return (await connection.execute(delete(outbox).where(mine, outbox.c.sent_at.is_not(None)))).rowcount


def without(evidence: Mapping[str, Any], events: Collection[int], mark: str) -> dict[str, Any]:
    """The evidence without what it quotes of these events."""
    examples = evidence.get("examples")
    if not isinstance(examples, list):
        return dict(evidence)
    gone = [each for each in examples if each.get("event") in events]
    kept = [{mark: True} if each.get("event") in events else each for each in examples]
    blank = {**evidence, "examples": kept}
    if mark == FORGOTTEN and gone and evidence.get("terms"):
        theirs, others = _said(gone), _said([each for each in kept if "text" in each])
        blank["terms"] = [term for term in evidence["terms"] if not _in(term, theirs) or _in(term, others)]
    return blank


def _said(examples: Sequence[Mapping[str, Any]]) -> str:
    return " ".join(str(each.get("text", "")) for each in examples).casefold()


def _in(term: Any, text: str) -> bool:
    return wording.name_of(term).casefold() in text


async def _blank_entries(
    connection: AsyncConnection, about: Sequence[int], events: Collection[int], mark: str
) -> None:
    query = select(outbox.c.id, outbox.c.value).where(outbox.c.alert.in_(about), outbox.c.value.is_not(None))
    for row in (await connection.execute(query.order_by(outbox.c.id))).all():
        body = msgspec.json.decode(row.value)
        body["evidence"] = without(body["evidence"], events, mark)
        blank = msgspec.json.encode(body)
        await connection.execute(update(outbox).where(outbox.c.id == row.id).values(value=blank))
