"""What the demo shows is read from the database, and from nowhere else."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.database import Database
from schemas.tables import alerts, dead_letters, events, progress, scores, watermarks

_LATEST_ALERTS = 40
_LATEST_LETTERS = 8
# The watermark is five seconds behind, so that this many of the latest ticks of ten seconds are open.
_OPEN_TICKS = 2


class Counts(Struct, frozen=True):
    """Records of a stream, by what became of them."""

    stored: int = 0
    repeated: int = 0
    dead: int = 0

    @property
    def accounted(self) -> int:
        return self.stored + self.repeated + self.dead


class Alerted(Struct, frozen=True):
    """An alert. `time` is the event's, or that of the decision, in microseconds; the rest as in the message."""

    rule: str
    kind: str
    group: str
    severity: str
    time: int
    evidence: dict[str, Any]

    @property
    def counts(self) -> bool:
        """Whether it tells of many events, not of one."""
        return self.kind != "match"


class Letter(Struct, frozen=True):
    """A dead letter, and why it is one."""

    stream: str
    reason: str
    message: str


class Snapshot(Struct, frozen=True):
    """The database at one moment. `topics` counts (topic, sentiment); the latest come first.

    Of the alerts those that tell of many events, the surges, go before those that tell of one.
    """

    streams: dict[str, Counts] = {}
    topics: Counter[tuple[str, str]] = Counter()
    alerts: int = 0
    surges: int = 0
    latest_alerts: list[Alerted] = []
    reasons: dict[str, int] = {}
    latest_letters: list[Letter] = []

    @property
    def total(self) -> Counts:
        each = self.streams.values()
        return Counts(
            sum(counts.stored for counts in each),
            sum(counts.repeated for counts in each),
            sum(counts.dead for counts in each),
        )


class Watch:
    """Looks at the database again and again; scores are counted once, the new ones at each look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._topics: Counter[tuple[str, str]] = Counter()
        self._counted_until = 0

    async def look(self) -> Snapshot:
        """The present state.

        Raises:
            DatabaseError: the database is away.
        """
        async with self._database.read() as connection:
            await self._count_topics(connection)
            return Snapshot(
                await _streams(connection),
                self._topics.copy(),
                *await _told(connection),
                await _alerts(connection),
                await _reasons(connection),
                await _letters(connection),
            )

    async def has_decided(self, streams: Collection[str]) -> bool:
        """Whether rules that count have looked at all ticks of these streams that are over.

        Raises:
            DatabaseError: the database is away.
        """
        newest = (
            select(func.max(events.c.visible_tick))
            .where(events.c.stream == watermarks.c.stream, events.c.run.is_(None))
            .scalar_subquery()
        )
        behind = (
            select(watermarks.c.stream)
            .where(watermarks.c.run == "", watermarks.c.stream.in_(streams))
            .where(watermarks.c.decided_tick < newest - _OPEN_TICKS)
        )
        async with self._database.read() as connection:
            return (await connection.execute(behind)).first() is None

    async def _count_topics(self, connection: AsyncConnection) -> None:
        latest = (await connection.execute(select(func.max(scores.c.event)))).scalar_one()
        if latest is None or latest == self._counted_until:
            return
        topic = scores.c.heads["topic"]["label"].as_string()
        sentiment = scores.c.heads["sentiment"]["label"].as_string()
        inner = (
            select(topic.label("topic"), sentiment.label("sentiment"))
            .where(scores.c.event > self._counted_until, scores.c.event <= latest)
            .subquery()
        )
        query = (
            select(inner.c.topic, inner.c.sentiment, func.count())
            .where(inner.c.topic.is_not(None), inner.c.sentiment.is_not(None))
            .group_by(inner.c.topic, inner.c.sentiment)
        )
        for name, label, count in await connection.execute(query):
            self._topics[name, label] += count
        self._counted_until = latest


async def _streams(connection: AsyncConnection) -> dict[str, Counts]:
    query = select(
        progress.c.stream, func.sum(progress.c.new), func.sum(progress.c.repeated), func.sum(progress.c.dead)
    ).group_by(progress.c.stream)
    return {row[0]: Counts(*map(int, row[1:])) for row in await connection.execute(query)}


async def _told(connection: AsyncConnection) -> tuple[int, int]:
    """How many alerts there are, and how many of them tell of many events."""
    query = select(func.count(), func.count().filter(alerts.c.kind != "match")).select_from(alerts)
    row = (await connection.execute(query)).one()
    return row[0], row[1]


async def _alerts(connection: AsyncConnection) -> list[Alerted]:
    table = alerts.c
    columns = table.rule, table.kind, table.group, table.severity, table.start_time, table.evidence
    query = select(*columns).order_by(table.kind == "match", table.id.desc()).limit(_LATEST_ALERTS)
    return [Alerted(*row) for row in await connection.execute(query)]


async def _reasons(connection: AsyncConnection) -> dict[str, int]:
    query = select(dead_letters.c.reason, func.count()).group_by(dead_letters.c.reason)
    return {row[0]: row[1] for row in await connection.execute(query.order_by(func.count().desc()))}


async def _letters(connection: AsyncConnection) -> list[Letter]:
    columns = dead_letters.c.stream, dead_letters.c.reason, dead_letters.c.message
    query = select(*columns).order_by(dead_letters.c.id.desc()).limit(_LATEST_LETTERS)
    return [Letter(*row) for row in await connection.execute(query)]
