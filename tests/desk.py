"""What the tests of notifications share: alerts in the database, and a server that keeps what it is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from helpers import EVENT_TIME, NOW, SECOND, Clock, settings_for, upgraded
from sqlalchemy import select, update

from pipeline.dispatch import Dispatch
from pipeline.notify import messages
from pipeline.observe import Observer
from pipeline.receivers import Receiver
from pipeline.store import outbox as box
from pipeline.store.alerts import change, insert_alerts
from pipeline.store.database import Database
from pipeline.work import AlertRow
from schemas.tables import alerts, outbox

TOPIC = "t.alerts"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LEASE = 60 * SECOND
EVIDENCE = {
    "window": {"start": "2024-05-31T08:30:00Z", "end": "2024-05-31T09:30:00Z"},
    "count": 42,
    "raw": 60,
    "distinct": 42,
    "value": 42.0,
    "baseline": 3.5,
    "odds": "12 times the usual; expected once in 3 years",
    "examples": [
        {
            "event": 1,
            "source": "wire",
            "id": "n1",
            "text": "Corvane sinks",
            "label": "negative",
            "probability": 0.93,
            "words": [["sinks", 0.7]],
        },
        {"event": 2, "source": "feed", "id": "n2", "text": "Corvane falls", "words": [["falls", 0.6]]},
    ],
    "terms": [["sinks", 3.1], ["falls", 2.2]],
    "sources": [["wire", 40], ["feed", 20]],
}


class Desk:
    """A server that keeps each request, and answers with `status`; while `gate` is closed it does not answer."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append({"body": body, "path": request.path, "headers": dict(request.headers)})
        self.came.set()
        await self.gate.wait()
        return web.Response(status=self.status, text="so it is")


@contextlib.asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """A server on loopback."""
    it = Desk()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    it.url = f"http://127.0.0.1:{server.port}"
    try:
        yield it
    finally:
        it.gate.set()
        await server.close()


@contextlib.asynccontextmanager
async def empty(url: str) -> AsyncIterator[Database]:
    """A database with its schema."""
    database = Database((await upgraded(settings_for(url))).database)
    try:
        yield database
    finally:
        await database.close()


def webhook(it: Desk, **fields: Any) -> Receiver:
    return Receiver.model_validate({"webhook": f"{it.url}/hook", "secret": SECRET, **fields})


def dispatch(database: Database, clock: Clock, **receivers: Receiver) -> Dispatch:
    return Dispatch(database, lambda: receivers, clock, Observer())


async def run(it: Dispatch) -> None:
    """One round, to its end."""
    await it.round()
    await it.idle()
    await it.close()


def alert(*names: str, state: str = "firing", episode: str = "1", **fields: Any) -> AlertRow:
    """An alert of a rule that counts, for these receivers."""
    known: dict[str, Any] = {
        "rule": "bad-mood",
        "group": "CRVN",
        "kind": "share",
        "severity": "high",
        "stream": "news",
        "start": EVENT_TIME,
        "visible_tick": 1,
        "definition": "d",
        "bundle": "b",
        "evidence": EVIDENCE,
    }
    return AlertRow(episode=episode, state=state, receivers=names, **(known | fields))


async def raised(database: Database, it: AlertRow, now: int = NOW) -> int:
    """Store an alert and what is said of it; returns its row."""
    async with database.begin() as connection:
        [(row, stored)] = await insert_alerts(connection, [it], None, now)
        await box.put(connection, messages(TOPIC, stored), now, now + LEASE)
    return row


async def ended(database: Database, row: int, now: int = NOW) -> None:
    """The rule finds that the alert is over."""
    async with database.begin() as connection:
        found = await change(connection, row, "resolved", now, end=now)
        await box.put(connection, messages(TOPIC, found), now, now + LEASE)


async def told(database: Database) -> dict[str, tuple[int | None, str | None]]:
    """By identity without the alert's name: when each receiver's entry was sent or withheld, and why not."""
    query = select(outbox).where(outbox.c.receiver.startswith("to:")).order_by(outbox.c.id)
    async with database.read() as connection:
        found = (await connection.execute(query)).all()
    return {":".join(row.identity.split(":")[1:]).replace(":to", ""): (row.sent_at, row.error) for row in found}


async def state_of(database: Database, row: int) -> str:
    async with database.read() as connection:
        return str((await connection.execute(select(alerts.c.state).where(alerts.c.id == row))).scalar_one())


async def set_alert(database: Database, row: int, **values: Any) -> None:
    async with database.begin() as connection:
        await connection.execute(update(alerts).where(alerts.c.id == row).values(values))
