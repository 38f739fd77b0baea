"""What several tests need: events as lines, a pipeline on a fresh database, and rows read back."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from sqlalchemy import Table, event, exc, select

from models.scorer import Scorer
from models.stub import StubScorer
from pipeline.compose import Pipeline, compose
from pipeline.deliver import MemoryOutlet, Outlet
from pipeline.settings import Settings, load_settings
from pipeline.store.database import Database
from pipeline.store.migrate import upgrade
from pipeline.turn import Turn
from pipeline.work import Applied
from schemas.events import Chunk, Line, Place, Record
from schemas.scores import Score

SECOND = 1_000_000
DAY = 86_400 * SECOND
EVENT_TIME = 1_717_147_800_000_000  # 2024-05-31T09:30:00Z
NOW = EVENT_TIME + 5 * SECOND
COUNTS = ("new", "repeated", "dead")  # columns of `progress`
Languages = Sequence[str | None] | None
SHORT = {"outage_deadline": 0.2}  # settings: an outage is hardly waited for

RULE = """
rules:
  - name: bad-news
    kind: match
    stream: news
    severity: high
    when: {words: bankrupt}
"""


class Clock:
    """Stands still until a test moves it."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class CountingScorer(StubScorer):
    """The stub, which also keeps what it was asked."""

    def __init__(self, refuse: str = "") -> None:
        super().__init__(refuse)
        self.asked: list[str] = []
        self.languages: list[str | None] = []

    def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
        self.asked += texts
        self.languages += languages or []
        return super().score(texts, stream, languages)


def line(offset: int, body: dict[str, Any], key: bytes | None = None, **record: Any) -> Line:
    return Line(offset, json.dumps(body, ensure_ascii=False).encode(), key, **record)


def news(offset: int, text: str = "", *, id: str | None = None, record: Any = None, **fields: Any) -> Line:
    """A news item; its id is its offset unless given."""
    body = {"id": id or f"n{offset}", "source": "wire", "time": "2024-05-31T09:30:00Z"}
    return line(offset, body | {"text": text or f"shares rise {offset}"} | fields, b"wire", **(record or {}))


def chat(offset: int, text: str = "", *, id: str | None = None, record: Any = None, **fields: Any) -> Line:
    """A customer's message."""
    body = {"id": id or f"c{offset}", "source": "desk", "time": "2024-05-31T09:30:00Z", "conversation": "k1"}
    body |= {"role": "customer", "kind": "message", "text": text or f"my card is lost {offset}"}
    return line(offset, body | fields, b"k1", **(record or {}))


def behavior(
    offset: int, user: str = "ann", item: str = "i1", *, id: str | None = None, record: Any = None, **fields: Any
) -> Line:
    """A click on an item with a text."""
    body = {"id": id or f"b{offset}", "source": "shop", "time": "2024-05-31T09:30:00Z", "user": user}
    body |= {"item": item, "action": "click", "text": f"all about {item}"}
    return line(offset, body | fields, user.encode(), **(record or {}))


def place(stream: str = "news", partition: int = 0, **fields: Any) -> Place:
    """A live partition."""
    known = {"cluster": "c", "topic": f"t.{stream}", "incarnation": "i"}
    return Place(stream, partition=partition, **(known | fields))


def settings_for(url: str, **sections: Any) -> Settings:
    """Settings with the stub and an outage deadline that tests can wait for."""
    database = {"url": url, "outage_deadline": 5.0} | sections.pop("database", {})
    return load_settings(database=database, model={"bundle": "stub"}, **sections)


async def upgraded(settings: Settings) -> Settings:
    """The same settings, the database's schema made."""
    database = Database(settings.database)
    try:
        await upgrade(database, NOW)
    finally:
        await database.close()
    return settings


@contextlib.asynccontextmanager
async def opened(
    url: str, *, scorer: Scorer | None = None, clock: Clock | None = None, **sections: Any
) -> AsyncIterator[Pipeline]:
    """A pipeline as a new process has it, on a database whose schema is made when it is not there."""
    settings = await upgraded(settings_for(url, **sections))
    async with await compose(settings, scorer=scorer or StubScorer(), clock=clock or Clock()) as pipeline:
        yield pipeline


async def take(
    pipeline: Pipeline,
    records: Sequence[Record],
    outlet: Outlet | None = None,
    where: Place | None = None,
    notify: bool = True,
) -> Applied:
    """One chunk all the way."""
    where = where or place()
    flow = pipeline.flow(where.stream, outlet or MemoryOutlet(), notify)
    return await flow.process(Chunk(where, records), Turn())


async def rows(database: Database, table: Table) -> list[dict[str, Any]]:
    """All rows, in the order of their key."""
    async with database.read() as connection:
        found = await connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row) for row in found.mappings()]


async def only(database: Database, table: Table) -> dict[str, Any]:
    """The table's one row."""
    found = await rows(database, table)
    assert len(found) == 1, found
    return found[0]


@contextlib.contextmanager
def outage(database: Database, times: int, where: str = "") -> Iterator[list[str]]:
    """The next `times` statements that contain `where` fail as if the server went away; yields those that did."""
    failed: list[str] = []

    def fail(_c: Any, _r: Any, statement: str, *_: Any) -> None:
        if where in statement and len(failed) < times:
            failed.append(statement)
            raise exc.OperationalError(statement, None, ConnectionError("the server went away"))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield failed
    finally:
        event.remove(engine, "before_cursor_execute", fail)
