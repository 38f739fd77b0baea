"""Schema versions: upgrade under a lock, and refusal to work on another version."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import Struct
from sqlalchemy import Connection, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

import schemas.migrations
from pipeline.retry import through_outage
from pipeline.settings import DatabaseSettings
from pipeline.store.database import Database, TryAgainError
from schemas.errors import ConfigError
from schemas.tables import instance

# Width of a tick in microseconds, fixed when the database is created.
TICK = 10_000_000
# "salience" in the numbers of a telephone's keys: the advisory lock of migrations.
_LOCK = 725_423_623
# Seconds for which a busy database is asked again.
_PATIENCE = 60.0


class Instance(Struct, frozen=True):
    """What is fixed for the life of a database, and how far it has been pruned (microseconds, event time)."""

    hash_key: bytes
    tick: int
    pruned_before: int | None = None
    seen_before: int | None = None


def head() -> str:
    """The schema version this release works on."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


async def upgrade(database: Database, now: int) -> tuple[str | None, str]:
    """Bring the schema to this release's version; returns (before, after).

    Two callers at once are safe: the second waits for the lock and finds nothing to do.
    """
    # SQLite refuses at once, whatever the timeout, while another makes the file a WAL database.
    return await through_outage(lambda: _upgrade_once(database, now), _PATIENCE, of=TryAgainError)


async def _upgrade_once(database: Database, now: int) -> tuple[str | None, str]:
    async with database.begin() as connection:
        if not database.is_sqlite:
            # A waiting caller must outlast the other's migration, not time out on its lock.
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        before = await connection.run_sync(_version)
        await connection.run_sync(_upgrade)
        await _ensure_instance(connection, database.settings.hash_key.get_secret_value(), now)
        return before, head()


async def check(database: Database) -> Instance:
    """The instance's constants.

    Raises:
        ConfigError: the database has no schema, or that of another release, or was made with another key.
    """
    async with database.read() as connection:
        version = await connection.run_sync(_version)
        if version != head():
            state = "has no tables of ours" if version is None else f"has schema version {version}"
            raise ConfigError(
                f"the database {database.shown} {state}, this release needs {head()}; run `salience db upgrade`"
            )
        found = await read_instance(connection)
    _compare_keys(database.settings.hash_key.get_secret_value(), found.hash_key)
    return found


@contextlib.asynccontextmanager
async def opened(settings: DatabaseSettings) -> AsyncIterator[tuple[Database, Instance]]:
    """A database of this release, and its constants; closed at the end.

    Raises:
        ConfigError: as `check`.
    """
    database = Database(settings)
    try:
        yield database, await check(database)
    finally:
        await database.close()


async def read_instance(connection: AsyncConnection) -> Instance:
    row = (await connection.execute(select(instance))).mappings().one()
    return Instance(row["hash_key"], row["tick"], row["pruned_before"], row["seen_before"])


async def _ensure_instance(connection: AsyncConnection, hash_key: str, now: int) -> None:
    found = (await connection.execute(select(instance.c.hash_key))).scalar_one_or_none()
    if found is None:
        key = hash_key.encode()[:64] if hash_key else secrets.token_bytes(32)
        await connection.execute(insert(instance).values(id=1, hash_key=key, tick=TICK, created_at=now))
    else:
        _compare_keys(hash_key, found)


def _compare_keys(setting: str, found: bytes) -> None:
    if setting and setting.encode()[:64] != found:
        raise ConfigError(
            "SALIENCE_DATABASE__HASH_KEY is not the key this database was made with; "
            "derived ids would change: set the former key, or leave the setting empty"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent).replace("%", "%%"))
    return config


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
