"""The same round by stock Faust, to see beside ours what it loses."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from check import consumer_of, lost_and_twice, records_of
from crew import Crew, OwnCrew
from msgspec import Struct
from workers import Worker
from world import SESSION, Round

from pipeline import admin
from pipeline.child import free_port

APP = ("-P", str(Path(__file__).with_name("stock_app.py")))
# Seconds without any movement after which nothing more is expected to come.
_STALLED = 25.0
# Seconds that are waited for anything.
_PATIENCE = 60.0


class StockAccount(Struct):
    """What became of the events; `counted` is what its table says, `produced` what it should."""

    produced: int
    lost: list[str]
    twice: list[str]
    repeats: int
    counted: int


class StockRound(Round):
    """Workers of stock Faust on the same kind of deployment."""

    def prepare(self) -> None:
        admin.create_topics(self.deployment.settings.broker)
        self.world.postgres.execute("CREATE TABLE seen (number BIGSERIAL PRIMARY KEY, id TEXT)", self.database)

    def man(self, workers: int, supervised: bool) -> Crew:
        return OwnCrew(self.start, workers)

    def start(self, index: int, armed: Mapping[str, str]) -> Worker:
        broker = self.deployment.settings.broker
        return self.deployment.worker(
            "--web-port",
            str(free_port()),
            program=APP,
            STOCK_GROUP=broker.group,
            STOCK_SERVERS=broker.servers,
            STOCK_TOPICS=",".join(self.topics.inputs.values()),
            STOCK_DATABASE=self.deployment.settings.database_url.replace("+asyncpg", ""),
            STOCK_SESSION=str(SESSION),
            STOCK_PARTITIONS=str(broker.partitions),
            **armed,
        )

    def handled(self) -> int:
        found = self.world.numbers(self.database, "SELECT count(*) FROM seen")
        return -1 if found is None else int(found[0][0])

    def until_handled(self, count: int) -> None:
        self.until(lambda: self.handled() >= count or self.idle(_STALLED), f"{count} rows")

    def until(self, reached: Callable[[], Any], what: str, patience: float = _PATIENCE) -> None:
        super().until(reached, what, patience)

    def behind(self) -> list[str]:
        """Nothing, once all is there or nothing moves any more."""
        missing = len(self.sent) - self._different()
        return [f"{missing} events are missing"] if missing and not self.idle(_STALLED) else []

    def account(self) -> StockAccount:
        """Count rows and table."""
        found = self.world.postgres.execute("SELECT id FROM seen", self.database)
        ids = Counter(str(row[0]) for row in found)
        lost, twice = lost_and_twice(self.sent, ids)
        repeats = sum(ids.values()) - len(ids)
        return StockAccount(len(self.sent), lost, twice, repeats, self._counted())

    def _different(self) -> int:
        found = self.world.numbers(self.database, "SELECT count(DISTINCT id) FROM seen")
        return 0 if found is None else int(found[0][0])

    def _counted(self) -> int:
        """The sum of the table, from its changelog."""
        broker = self.deployment.settings.broker
        topic = f"{broker.group}-counts-changelog"
        with closing(consumer_of(broker.servers, broker.group)) as consumer:
            records = records_of(consumer, [topic])[topic]
        latest = {record.key: record.value for record in sorted(records, key=lambda r: (r.partition, r.offset))}
        return sum(int(json.loads(value)) for value in latest.values() if value)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def settle(round_: StockRound) -> None:
    """Let its last buffers and commits through before the workers are stopped."""
    end = time.monotonic() + 3.0
    round_.until(lambda: time.monotonic() > end, "the last rows")
