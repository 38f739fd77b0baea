"""Where the benchmark runs: an embedded broker of its own, and databases that are empty or hold other ids."""

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.admin import create_topics
from pipeline.embedded import EmbeddedBroker
from pipeline.localpg import LocalPostgres
from pipeline.send import Sender
from pipeline.settings import PREFIX, Settings, load_settings
from pipeline.store import migrate
from pipeline.store.database import Database
from pipeline.times import now
from schemas.errors import UsageError
from schemas.events import Line

# The embedded broker lets a group join after half a session.
_SESSION = 2.0


class Site:
    """A broker, a folder for SQLite files, and PostgreSQL: our own, with fsync, or the one that was given."""

    def __init__(self, broker: EmbeddedBroker, folder: Path, given: str | None) -> None:
        self._broker = broker
        self._folder = folder
        self._given = given
        self._postgres: LocalPostgres | None = None

    def run(self, kind: str, bundle: str) -> "Run":
        """A new run on `kind` (postgresql, sqlite): topics of its own, and a database brought up to date."""
        return Run(self._broker.servers, self._url(kind), bundle)

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.close()

    def _url(self, kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{self._folder / secrets.token_hex(4)}.db"
        if self._given is not None:
            return self._given
        if self._postgres is None:
            postgres = LocalPostgres(fsync=True, synchronous_commit="on")
            self._postgres = postgres.__enter__()
        return self._postgres.url(self._postgres.create())


class Run:
    """One measurement's topics, consumer group and database; no two runs have a name or an event in common."""

    def __init__(self, servers: str, url: str, bundle: str) -> None:
        self.name = f"b{secrets.token_hex(4)}"
        self.sections: Mapping[str, Mapping[str, Any]] = {
            "broker": {
                "servers": servers, "prefix": self.name, "group": self.name, "session_timeout": _SESSION,
                "security_protocol": "PLAINTEXT", "offset_reset": "earliest",
            },
            "database": {"url": url},
            "model": {"bundle": bundle, "cache": 0},
            "worker": {"port": 0, "publish_scored": True},
            "rules": {"file": ""},
            "log": {"level": "warning"},
        }  # fmt: skip
        self.settings: Settings = load_settings(**self.sections)
        create_topics(self.settings.broker)
        asyncio.run(self._upgrade())

    @property
    def environment(self) -> dict[str, str]:
        """What a worker of this run is started with."""
        own = {
            f"{PREFIX}{section}__{name}".upper(): str(value)
            for section, values in self.sections.items()
            for name, value in values.items()
        }
        return {**os.environ, **own}

    def send(self, lines: Iterable[Line]) -> int:
        """Send events and wait until the broker has them all; returns how many."""
        with Sender(self.settings.broker) as sender:
            return sender.send(lines, "news")

    async def _upgrade(self) -> None:
        database = Database(self.settings.database)
        try:
            await migrate.upgrade(database, now())
        finally:
            await database.close()


@contextlib.contextmanager
def open_site(database: str | None) -> Iterator[Site]:
    """A site that is gone at the end.

    Raises:
        UsageError: `database` is no PostgreSQL URL.
        ConfigError: the embedded broker or PostgreSQL cannot run here.
    """
    if database is not None and not database.startswith(("postgresql", "postgres:")):
        raise UsageError(
            "--database takes the URL of a PostgreSQL database; SQLite is measured in a file of its own"
        )
    with tempfile.TemporaryDirectory(prefix="salience-bench-") as folder, EmbeddedBroker() as broker:
        site = Site(broker, Path(folder), database)
        try:
            yield site
        finally:
            site.close()
