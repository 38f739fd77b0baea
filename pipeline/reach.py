"""Whether receivers can be reached: a test notification to one, and how all of them do."""

from typing import Any

import msgspec
from sqlalchemy import func, select

from pipeline.notify import Notice
from pipeline.receivers import Receiver, Receivers
from pipeline.store.database import Database
from pipeline.store.outbox import TO
from pipeline.times import rfc3339
from pipeline.transports import open_transport
from schemas.counting import receivers as health
from schemas.errors import NotSentError, UsageError
from schemas.messages import Alert
from schemas.tables import outbox


def named(name: str, receivers: Receivers) -> Receiver:
    """The receiver of this name.

    Raises:
        UsageError: there is none, with those that there are.
    """
    if name not in receivers:
        known = ", ".join(receivers) or "none"
        raise UsageError(f"there is no receiver {name}; the rules file has {known}")
    return receivers[name]


async def send_test(name: str, receiver: Receiver, now: int) -> None:
    """Tell a receiver of an alert that is none, past the outbox, silences and rates.

    Raises:
        NotSentError: it was not taken.
    """
    moment = rfc3339(now)
    said = "This is a test of Salience: had something fired, you would be told like this."
    alert = Alert(
        id=f"test//{moment}",
        rule="test",
        group="",
        episode=moment,
        kind="match",
        state="fired",
        version=1,
        severity="info",
        stream="news",
        start=moment,
        definition="",
        bundle="",
        evidence={"source": "salience", "id": "test", "text": said},
    )
    transport = open_transport(receiver)
    try:
        await transport.send(Notice(f"{alert.id}:fired:to:{name}", msgspec.json.encode(alert)), now)
    except NotSentError as error:
        raise NotSentError(f"{name} ({receiver.shown}) was not told: {receiver.hide(str(error))}") from None
    finally:
        transport.close()


async def how_they_do(database: Database, receivers: Receivers) -> list[dict[str, Any]]:
    """Each receiver of the configuration and of the database: what waits, when it was last told, what it said."""
    waiting = (
        select(outbox.c.receiver, func.count())
        .where(outbox.c.sent_at.is_(None), outbox.c.receiver.startswith(TO))
        .group_by(outbox.c.receiver)
    )
    async with database.read() as connection:
        counts = {row[0].removeprefix(TO): row[1] for row in await connection.execute(waiting)}
        rows = {row.name: row for row in await connection.execute(select(health))}
    return [
        _state(name, receivers.get(name), rows.get(name), counts.get(name, 0))
        for name in sorted({*receivers, *counts})
    ]


def _state(name: str, receiver: Receiver | None, row: Any, waiting: int) -> dict[str, Any]:
    sent_at = None if row is None else row.sent_at
    return {
        "name": name,
        "kind": None if receiver is None else receiver.kind,
        "address": None if receiver is None else receiver.shown,
        "waiting": waiting,
        "told": None if sent_at is None else rfc3339(sent_at),
        "failures": 0 if row is None else row.failures,
        "error": None if row is None else row.error,
    }
