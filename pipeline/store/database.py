"""The connection to the database: engine, transactions, and what each failure means."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from pipeline.settings import DatabaseSettings
from schemas.errors import ConfigError, DatabaseError, SalienceError, StoreError

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL: data exceptions, integrity, and limits such as an index row that is too large.
_DATA_STATES = ("22", "23", "54")
# Deadlock, serialisation failure, lock timeout: the same work succeeds when tried again.
_AGAIN_STATES = ("40001", "40P01", "55P03")
_CREDENTIAL_STATES = ("28",)
# Seconds that a transaction may take to its end when its caller was cancelled.
_ENDING = 2.0
# Seconds without an answer to a statement after which a worker takes the server for away.
ANSWER = 60.0


class Database:
    """One engine. Errors leave it as SalienceError: StoreError for bad content, DatabaseError for an outage."""

    def __init__(self, settings: DatabaseSettings, answer: float | None = None) -> None:
        """`answer`: seconds that a statement may take on PostgreSQL; None = as long as it likes."""
        self._answer = answer
        self.url = settings.url.get_secret_value()
        self.settings = settings
        self.is_sqlite = self.url.startswith("sqlite")
        # One writer at a time on SQLite: waiting here is fair and costs no busy-looping.
        self._writer: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self.is_sqlite else contextlib.nullcontext()
        )
        self.engine = self._sqlite() if self.is_sqlite else self._postgresql()

    def _sqlite(self) -> AsyncEngine:
        timeout = self.settings.lock_timeout
        folder = Path(make_url(self.url).database or ".").parent
        if not folder.is_dir():
            raise ConfigError(f"the folder {folder} of the database {self.shown} does not exist; make it first")
        engine = create_async_engine(self.url, connect_args={"timeout": timeout, "isolation_level": None})

        @event.listens_for(engine.sync_engine, "connect")
        def on_connect(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Any) -> None:
            reading = connection.get_execution_options().get("reading", False)
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

        return engine

    def _postgresql(self) -> AsyncEngine:
        milliseconds = str(int(self.settings.lock_timeout * 1000))
        return create_async_engine(
            self.url,
            # A statement must see what was written before it got its lock, whatever the server's default.
            isolation_level="READ COMMITTED",
            pool_size=self.settings.pool,
            max_overflow=0,
            # A connection that died is found by the transaction itself, which an outage makes run again.
            pool_pre_ping=False,
            connect_args={
                "timeout": 10,
                "command_timeout": self._answer,
                "server_settings": {
                    "application_name": "salience",
                    "lock_timeout": milliseconds,
                    "idle_in_transaction_session_timeout": milliseconds,
                    # The client keeps times as integers; nothing may depend on the server's zone.
                    "timezone": "UTC",
                },
            },
        )

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return make_url(self.url).difference_update_query(["password"]).render_as_string(hide_password=True)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A writing transaction: commits at the end, rolls back on an exception."""
        with self.explained():
            async with self._writer, self.engine.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A reading transaction, which waits for no writer."""
        with self.explained():
            async with self.engine.connect() as plain:
                connection = await plain.execution_options(reading=True)
                async with connection.begin():
                    yield connection

    @contextlib.contextmanager
    def explained(self) -> Any:
        """Turns a driver's exception into one of ours."""
        try:
            yield
        except SalienceError:
            raise
        except Exception as error:
            explained = self._explain(error)
            if explained is None:
                raise
            raise explained from error

    def _explain(self, error: Exception) -> SalienceError | None:
        if isinstance(error, exc.DBAPIError):
            return self._explain_driver(error)
        if isinstance(error, (exc.StatementError, OverflowError, UnicodeError)):
            return StoreError(f"the database refuses the event: {_first_line(error)}")
        if isinstance(error, (OSError, TimeoutError, exc.TimeoutError)):
            return DatabaseError(
                f"the database {self.shown} cannot be reached ({_first_line(error)}); "
                "start it, or mend SALIENCE_DATABASE__URL"
            )
        return None

    def _explain_driver(self, error: exc.DBAPIError) -> SalienceError:
        original = error.orig
        state = getattr(original, "sqlstate", None) or ""
        line = _first_line(original or error)
        if state in _AGAIN_STATES or "database is locked" in line:
            return TryAgainError(f"the database {self.shown} is busy ({line})")
        if state.startswith(_DATA_STATES) or isinstance(error, (exc.DataError, exc.IntegrityError)):
            return StoreError(f"the database refuses the event: {line}")
        if state.startswith(_CREDENTIAL_STATES):
            return ConfigError(f"the database {self.shown} refuses the login: {line}; mend SALIENCE_DATABASE__URL")
        if state == "3D000":
            return ConfigError(f"the database {self.shown} does not exist; create it, then `salience db upgrade`")
        if state == "42P01" or "no such table" in line:
            return ConfigError(f"the database {self.shown} has no tables of ours; run `salience db upgrade`")
        if isinstance(error, exc.InterfaceError) and self.is_sqlite:
            return StoreError(f"the database refuses the event: {line}")
        return DatabaseError(f"the database {self.shown} does not answer as it should: {line}")

    async def close(self) -> None:
        await self.engine.dispose()


def uninterrupted(job: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Bring a short transaction to its end although its caller is cancelled, who learns of that afterwards.

    On SQLite, a transaction that is cancelled in the middle of a statement can leave its lock behind.
    """

    @functools.wraps(job)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        task = asyncio.ensure_future(job(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_look_at)
            await asyncio.wait([task], timeout=_ENDING)
            raise

    return run


def _look_at(task: "asyncio.Future[Any]") -> None:
    """Its exception was looked at, or it would be told as never retrieved."""
    if not task.cancelled():
        task.exception()


class TryAgainError(DatabaseError):
    """Deadlock, serialisation failure or lock timeout: try the same transaction again."""

    reason = "database_busy"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
