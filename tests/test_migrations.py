"""The schema: made once, whoever asks, and refused when it is another."""

import subprocess
import sys
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from helpers import NOW, opened, rows, settings_for, upgraded
from sqlalchemy import Connection, text

from models.stub import StubScorer
from pipeline.compose import compose
from pipeline.store import migrate
from pipeline.store.database import Database
from pipeline.store.migrate import TICK, check, head, upgrade
from schemas.errors import ConfigError, DatabaseError, StoreError
from schemas.tables import instance, metadata, outbox, progress

UPGRADE = """
import asyncio, sys
from pipeline.settings import load_settings
from pipeline.store.database import Database
from pipeline.store.migrate import upgrade

async def main():
    database = Database(load_settings(database={"url": sys.argv[1]}).database)
    sys.stdin.readline()
    print(*await upgrade(database, 7))
    await database.close()

print("ready", flush=True)
asyncio.run(main())
"""


def _database(url: str, **database: Any) -> Database:
    return Database(settings_for(url, database=database).database)


async def test_upgrade_makes_the_schema_from_nothing(database_url: str) -> None:
    database = _database(database_url)
    assert await upgrade(database, NOW) == (None, head())
    assert (await check(database)).tick == TICK
    await database.close()


async def test_a_second_upgrade_changes_nothing(database_url: str) -> None:
    database = _database(database_url)
    await upgrade(database, NOW)
    before = await rows(database, instance)
    assert await upgrade(database, NOW + 1) == (head(), head())
    assert await rows(database, instance) == before
    await database.close()


def test_two_processes_that_upgrade_at_once_both_succeed(database_url: str) -> None:
    command = [sys.executable, "-c", UPGRADE, database_url]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    assert sorted(out.strip() for out, _ in said) == sorted([f"None {head()}", f"{head()} {head()}"])


async def test_the_migrations_give_the_tables_that_the_code_names(database_url: str) -> None:
    database = _database(database_url)
    await upgrade(database, NOW)

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, metadata)

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_a_database_without_schema_is_refused_with_the_mend(database_url: str) -> None:
    with pytest.raises(ConfigError, match=r"has no tables of ours.*run `salience db upgrade`"):
        await compose(settings_for(database_url), scorer=StubScorer())


async def test_a_database_of_another_release_is_refused_with_both_versions(database_url: str) -> None:
    settings = await upgraded(settings_for(database_url))
    database = Database(settings.database)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(ConfigError, match=rf"schema version 9999, this release needs {head()}; run"):
        await compose(settings, scorer=StubScorer())


async def test_the_key_of_the_setting_is_kept_in_the_database(database_url: str) -> None:
    async with opened(database_url, database={"hash_key": "a key of the house"}) as pipeline:
        assert pipeline.instance.hash_key == b"a key of the house"


async def test_a_key_is_made_by_chance_when_none_is_set(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        assert len(pipeline.instance.hash_key) == 32


async def test_another_key_than_the_database_has_is_refused(database_url: str) -> None:
    await upgraded(settings_for(database_url, database={"hash_key": "the first"}))
    database = _database(database_url, hash_key="the second")
    with pytest.raises(ConfigError, match="HASH_KEY is not the key this database was made with"):
        await upgrade(database, NOW)
    await database.close()


async def test_an_empty_key_setting_takes_the_key_that_is_there(database_url: str) -> None:
    await upgraded(settings_for(database_url, database={"hash_key": "the first"}))
    async with opened(database_url) as pipeline:
        assert pipeline.instance.hash_key == b"the first"


async def test_a_worker_refuses_another_key_than_the_database_has(database_url: str) -> None:
    await upgraded(settings_for(database_url, database={"hash_key": "the first"}))
    with pytest.raises(ConfigError, match="HASH_KEY is not the key"):
        await compose(settings_for(database_url, database={"hash_key": "the second"}), scorer=StubScorer())


@pytest.mark.postgres
async def test_a_wrong_password_is_named(postgres: Any) -> None:
    url = postgres.url("postgres").replace("salience:", "salience:not")
    with pytest.raises(ConfigError, match=r"refuses the login.*SALIENCE_DATABASE__URL"):
        await compose(settings_for(url), scorer=StubScorer())


@pytest.mark.postgres
async def test_a_database_that_is_not_there_is_named(postgres: Any) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist; create it"):
        await compose(settings_for(postgres.url("nowhere")), scorer=StubScorer())


async def test_a_server_that_is_not_there_is_an_outage_and_its_password_stays_hidden() -> None:
    url = "postgresql://anna:sesame@127.0.0.1:1/salience"
    with pytest.raises(DatabaseError, match="cannot be reached") as caught:
        await compose(settings_for(url), scorer=StubScorer())
    assert "sesame" not in str(caught.value)


async def test_rows_of_the_first_schema_survive_the_upgrade(database_url: str) -> None:
    database = _database(database_url)

    def first(connection: Connection) -> None:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    key = {"cluster": "c", "topic": "t", "incarnation": "i", "partition": 0, "stream": "news"}
    counts = {"stored": 9, "published": 8, "sequence": 7, "new": 6, "repeated": 5, "dead": 4, "updated_at": 3}
    sent = {"identity": "a", "receiver": "topic:t", "value": b"v", "headers": [], "created_at": 1}
    async with database.begin() as connection:
        await connection.run_sync(first)
        await connection.execute(instance.insert().values(id=1, hash_key=b"k", tick=5, created_at=1))
        await connection.execute(outbox.insert().values(**sent, lease_until=2, attempts=3))
        await connection.execute(progress.insert().values(**key, **counts))
    assert await upgrade(database, NOW) == ("0001", head())
    (message,) = await rows(database, outbox)
    assert (message["identity"], message["value"], message["version"]) == ("a", b"v", None)
    (standing,) = await rows(database, progress)
    assert (standing["stored"], standing["published"], standing["timed"], standing["newest"]) == (9, 8, 0, None)
    # The table was made anew on SQLite: what it forbids, it still forbids.
    with pytest.raises(StoreError):
        async with database.begin() as connection:
            await connection.execute(outbox.insert().values(**sent, lease_until=2, attempts=3))
    await database.close()
