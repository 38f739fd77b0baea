"""The demo's own broker, topics, database and worker; all are gone when it ends."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from kafka.errors import KafkaError

from pipeline import embedded
from pipeline.admin import admin, create_topics
from pipeline.child import Child, free_port
from pipeline.embedded import EmbeddedBroker
from pipeline.settings import PREFIX, Settings, load_settings
from pipeline.store import migrate
from pipeline.store.database import Database
from pipeline.times import now
from pipeline.topics import Topics
from schemas.errors import ConfigError, OutageError, SalienceError

RULES = Path(__file__).with_name("rules.yaml")
# Seconds: a broker of our own answers at once, and with the usual 45 s a group needs 23 s to form on it.
_SESSION = 2.0
# Seconds a stopping worker may take, and may then overdraw.
_DRAIN, _OVERDRAW = 8.0, 4.0
# Lines of a dead worker's output that its error shows, when none of them is a log line.
_LAST_LINES = 5

T = TypeVar("T")
Sections = dict[str, dict[str, Any]]


class Stage:
    """Use as `async with`: everything runs inside, and nothing is left behind."""

    def __init__(self, servers: str | None, keep: bool) -> None:
        """Prepare for the broker at `servers` (HOST:PORT), or for an embedded one.

        Raises:
            ConfigError: a setting is wrong, or the embedded broker cannot run here.
        """
        base = load_settings()
        why = embedded.available() if servers is None else None
        if why is not None:
            raise ConfigError(why)
        self._keep = keep
        self._broker = EmbeddedBroker() if servers is None else None
        self._servers = servers
        self.folder = Path()
        self.rules = base.rules.file or str(RULES)
        # On a broker that is not ours, others may read and write the usual topics.
        mark = secrets.token_hex(4)
        self._prefix = base.broker.prefix if servers is None else f"{base.broker.prefix}-demo-{mark}"
        self._group = f"{base.broker.group}-demo-{mark}"
        self.settings = base
        self.database: Database | None = None
        self._worker: Child | None = None
        self._made: list[str] = []

    async def start_broker(self) -> None:
        """Broker, topics, and the schema in an empty database.

        Raises:
            BrokerError: it does not answer.
        """
        if self._broker is not None:
            await asyncio.to_thread(self._broker.start)
        self._sections = self._settings()
        self.settings = load_settings(**self._sections)
        self.database = Database(self.settings.database)
        (self._made, _), _ = await asyncio.gather(
            asyncio.to_thread(create_topics, self.settings.broker), migrate.upgrade(self.database, now())
        )

    async def start_worker(self) -> None:
        """One worker process; it is ready some seconds later."""
        # -P: a folder named pipeline where the person happens to stand is not ours.
        command = [sys.executable, "-P", "-m", "pipeline", "worker", "--workers", "1"]
        start = partial(Child, command, env=_environment(self._sections))
        self._worker = await asyncio.to_thread(start)

    def check(self) -> None:
        """Raises SalienceError when broker or worker have ended, with what they said last."""
        if self._broker is not None:
            self._broker.check()
        status = self._worker.exit_status() if self._worker is not None else None
        if status is not None and self._worker is not None:
            error: type[SalienceError] = ConfigError if status == 2 else OutageError
            raise error(
                f"the demo's worker ended with exit status {status}. It said: {_last_words(self._worker.output())}"
            )

    async def stop_worker(self) -> None:
        """Let it finish what is in work."""
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop, signal.SIGTERM, _DRAIN + _OVERDRAW)
            self._worker = None

    def hurry(self) -> None:
        """Wait for the worker no longer: what it has not stored is lost with the broker anyway."""
        if self._worker is not None:
            self._worker.kill()

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="salience-demo-"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop_worker()
        finally:
            if self._broker is not None:
                self._broker.stop()
            elif self._made and not self._keep:
                await asyncio.to_thread(_delete_topics, self.settings, self._made)
            if self.database is not None:
                await self.database.close()
            if not self._keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def addresses(self) -> dict[str, str]:
        """Where to look around while it is kept running."""
        return {
            "broker": self.settings.broker.servers,
            "topics": ", ".join(Topics(self._prefix).inputs.values()),
            "database": self.settings.database_url,
            "pages": f"http://127.0.0.1:{self.settings.worker.port}/metrics",
        }

    def _settings(self) -> Sections:
        """What differs from the person's own settings."""
        broker: dict[str, Any] = {"prefix": self._prefix, "group": self._group, "offset_reset": "earliest"}
        # A partition without events holds up its stream's time for half a minute, which is the whole demo.
        broker["partitions"] = 1
        if self._broker is not None:
            broker |= {"servers": self._broker.servers, "security_protocol": "PLAINTEXT", "read_committed": False}
            broker |= {"session_timeout": _SESSION, "replication": 1}
        else:
            broker["servers"] = self._servers
        return {
            "broker": broker,
            "database": {"url": f"sqlite+aiosqlite:///{self.folder / 'salience.db'}"},
            "worker": {"host": "127.0.0.1", "port": free_port(), "shutdown_timeout": _DRAIN},
            "rules": {"file": self.rules},
            "log": {"format": "json", "level": "info"},
        }


def _delete_topics(settings: Settings, names: list[str]) -> None:
    # Left-over topics harm nobody; a broker that refuses to delete them is no failure of the demo.
    with contextlib.suppress(KafkaError, OSError, SalienceError), admin(settings.broker) as client:
        client.delete_topics(names)


def _environment(sections: Sections) -> dict[str, str]:
    given = {
        f"{PREFIX}{section}__{name}".upper(): str(value)
        for section, values in sections.items()
        for name, value in values.items()
    }
    return {**os.environ, **given, "PYTHONUNBUFFERED": "1"}


def _last_words(output: str) -> str:
    """The last sentence that was logged, else the last lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        with contextlib.suppress(msgspec.DecodeError):
            logged = msgspec.json.decode(line)
            if isinstance(logged, dict) and logged.get("message"):
                return str(logged["message"])
    return " / ".join(lines[-_LAST_LINES:]) or "nothing"
