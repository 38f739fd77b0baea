"""What the demo shows is read from the database, and from nowhere else."""

from collections import Counter
from typing import Any

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.database import Database
from schemas.tables import alerts, dead_letters, progress, scores

_LATEST_ALERTS = 40
_LATEST_LETTERS = 8


class Counts(Struct, frozen=True):
    """Records of a stream, by what became of them."""

    stored: int = 0
    repeated: int = 0
    dead: int = 0

    @property
    def accounted(self) -> int:
        return self.stored + self.repeated + self.dead


class Alerted(Struct, frozen=True):
    """An alert. `time` is the event's, in microseconds; `evidence` as in the alert message."""

    rule: str
    severity: str
    time: int
    evidence: dict[str, Any]


class Letter(Struct, frozen=True):
    """A dead letter, and why it is one."""

    stream: str
    reason: str
    message: str


class Snapshot(Struct, frozen=True):
    """The database at one moment. `topics` counts (topic, sentiment); the latest come first."""

    streams: dict[str, Counts] = {}
    topics: Counter[tuple[str, str]] = Counter()
    alerts: int = 0
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
                (await connection.execute(select(func.count()).select_from(alerts))).scalar_one(),
                await _alerts(connection),
                await _reasons(connection),
                await _letters(connection),
            )

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


async def _alerts(connection: AsyncConnection) -> list[Alerted]:
    columns = alerts.c.rule, alerts.c.severity, alerts.c.start_time, alerts.c.evidence
    query = select(*columns).order_by(alerts.c.id.desc()).limit(_LATEST_ALERTS)
    return [Alerted(*row) for row in await connection.execute(query)]


async def _reasons(connection: AsyncConnection) -> dict[str, int]:
    query = select(dead_letters.c.reason, func.count()).group_by(dead_letters.c.reason)
    return {row[0]: row[1] for row in await connection.execute(query.order_by(func.count().desc()))}


async def _letters(connection: AsyncConnection) -> list[Letter]:
    columns = dead_letters.c.stream, dead_letters.c.reason, dead_letters.c.message
    query = select(*columns).order_by(dead_letters.c.id.desc()).limit(_LATEST_LETTERS)
    return [Letter(*row) for row in await connection.execute(query)]
