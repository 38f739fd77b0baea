"""Where the rounds take place: one Kafka behind a proxy and one PostgreSQL, to be stopped and killed."""

import contextlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from check import behind
from crew import Crew, OwnCrew, SupervisedCrew
from feed import RULES, Feeder, script
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from proxy import Proxy
from servers import KafkaServer
from workers import Deployment, Worker

from pipeline.localpg import LocalPostgres
from pipeline.topics import Topics
from schemas.errors import DatabaseError, SalienceError

FAULTY = ("-P", str(Path(__file__).with_name("faulty.py")))
# Seconds without a heartbeat before a worker's partitions go to another: short, so that a round is.
SESSION = 3.0
# Seconds for what should come at once; machines are slow, and rebalances under load slower.
PATIENCE = 180.0
_POLL = 0.1
_HANDLED = "SELECT coalesce(sum(new + repeated + dead), 0) FROM progress"


class World:
    """The servers of all rounds, running inside `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proxy = Proxy()
        self.kafka = KafkaServer(
            folder / "kafka", advertised_listeners=f"PLAINTEXT://{self.proxy.servers}", timeout=120.0
        )
        self.proxy.target = self.kafka.port
        self.postgres = LocalPostgres(fsync=False, max_connections="150", timeout=60.0)
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "World":
        # It logs each refused connection and each group it cannot decode, by the thousand.
        logger = logging.getLogger("kafka")
        self._stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        with self._stack:
            for server in (self.proxy, self.kafka, self.postgres):
                self._stack.enter_context(server)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def repair(self) -> None:
        """All servers run again, whatever a round left behind."""
        self.proxy.restore()
        for server in (self.kafka, self.postgres):
            if server.child is None or server.child.exit_status() is not None:
                server.kill()
                server.start()

    def deployment(self, **sections: dict[str, Any]) -> Deployment:
        """A prefix, a folder and an empty database of its own; the rules raise an alert for each alarm."""
        folder = self.folder / f"round-{next(self._numbers)}"
        folder.mkdir(parents=True)
        rules = folder / "rules.yaml"
        rules.write_text(RULES)
        prefix = f"c{secrets.token_hex(4)}"
        given: dict[str, dict[str, Any]] = {
            # Faust gives nobody more than his share, rounded up: with four, the third of three may get none.
            "broker": {"session_timeout": SESSION, "partitions": 6},
            "database": {"pool": 4, "lock_timeout": 5.0},
            "worker": {"chunk": 32},
            "rules": {"file": str(rules)},
        }
        for name, values in sections.items():
            given[name] = given.get(name, {}) | values
        url = self.postgres.url(self.postgres.create(prefix))
        return Deployment(folder, self.proxy.servers, url, prefix, **given)

    def numbers(self, database: str, query: str) -> list[Any] | None:
        """What a query gives, or None while the database is away."""
        try:
            return self.postgres.execute(query, database)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseError):
            return None


class Round:
    """One deployment under faults. `events` flow in as many parts as there are faults, and one more."""

    stock = False

    def __init__(
        self,
        world: World,
        events: int,
        *,
        seed: int = 1,
        rate: float = 200.0,
        workers: int = 3,
        brittle: bool = False,
        supervised: bool = False,
        **sections: dict[str, Any],
    ) -> None:
        self.world = world
        self.sent, values = script(events, seed, brittle)
        self.deployment = world.deployment(**sections)
        self.topics = Topics(self.deployment.settings.broker.prefix)
        self.clock = self.deployment.folder / "clock"
        self.brittle = brittle
        self.spare = 0  # dead letters that a single failure may cost
        self._last_handled, self._moved = -1, time.monotonic()
        self.prepare()
        self.crew: Crew = self.man(workers, supervised)
        broker = self.deployment.settings.broker
        self.feeder = Feeder(world.proxy.servers, broker.prefix, self.sent, values, rate)

    @property
    def database(self) -> str:
        """The database's name."""
        return self.deployment.settings.broker.prefix

    def prepare(self) -> None:
        """Make topics and tables."""
        self.deployment.prepare()

    def man(self, workers: int, supervised: bool) -> Crew:
        """Start the workers."""
        if supervised:
            return SupervisedCrew(self.deployment, workers)
        return OwnCrew(self.start, workers)

    def start(self, index: int, armed: Mapping[str, str]) -> Worker:
        """Start one worker, with what it is armed with."""
        environment = {"CHAOS_CLOCK": str(self.clock), **armed}
        if self.brittle:
            environment.setdefault("CHAOS_FAULTS", '[{"stage": "score", "kind": "raise", "at": "brittle"}]')
        return self.deployment.worker(program=FAULTY, **environment)

    def until_manned(self, workers: int) -> None:
        """Wait until the broker counts so many members, and no rebalance is under way."""
        broker = self.deployment.settings.broker

        def stable() -> bool:
            try:
                with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.servers)) as client:
                    group = client.describe_groups([broker.group])[broker.group]
            except (KafkaError, OSError):  # it has no coordinator yet
                return False
            return group["group_state"] == "Stable" and len(group["members"]) == workers

        self.until(stable, "the workers to join")

    def handled(self) -> int:
        """Records whose fate the database knows; -1 while it is away."""
        found = self.world.numbers(self.database, _HANDLED)
        return -1 if found is None else int(found[0][0])

    def until(self, reached: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Wait until it is so, and see to it meanwhile that as many work as should."""
        end = time.monotonic() + patience
        while not reached():
            self.crew.look()
            if time.monotonic() > end:
                state = f"{self.handled()} of {len(self.sent)} are handled; behind are {self.behind()}"
                raise AssertionError(f"waited {patience:.0f} s for {what}: {state}\n{self.deployment.logs()}")
            time.sleep(_POLL)

    def wait(self, seconds: float) -> None:
        """Let time pass: an outage lasts this long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "time to pass", seconds + PATIENCE)

    def idle(self, seconds: float = 15.0) -> bool:
        """Whether nothing has moved for so long, though everything that may be sent was."""
        now, handled = time.monotonic(), self.handled()
        if handled != self._last_handled or self.feeder.sent < self.feeder.allowed:
            self._last_handled, self._moved = handled, now
        return now - self._moved > seconds

    def until_handled(self, count: int) -> None:
        """Wait until so many records are accounted for."""
        self.until(lambda: self.handled() >= count, f"{count} records")

    def until_done(self) -> None:
        """Wait until all was sent, handled and delivered, then stop the workers."""
        self.feeder.allow(len(self.sent))
        self.until(self.feeder.finished, "the events to be sent")
        self.until(lambda: not self.behind(), "the end")

    def behind(self) -> list[str]:
        """Partitions of which something is not delivered."""
        try:
            return behind(self.deployment)
        except (KafkaError, OSError, SalienceError):
            return ["nobody knows: broker or database are away"]

    def close(self) -> None:
        """End what still runs."""
        self.feeder.close()
        self.deployment.close()


@contextlib.contextmanager
def closing(round_: Round) -> Iterator[Round]:
    """The round, ended and its database dropped at the end."""
    try:
        yield round_
    finally:
        round_.close()
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            round_.world.postgres.drop(round_.database)


def environment_is_clean() -> None:
    """The harness's own settings come from its code, not from the developer's environment."""
    for name in [name for name in os.environ if name.startswith("SALIENCE_") and name != "SALIENCE_DATA"]:
        del os.environ[name]
