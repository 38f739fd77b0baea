"""The worker as a process: on both brokers, under kills, signals and outages."""

import json
import random
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from servers import KafkaServer
from workers import PATIENCE, Deployment, numbered

from pipeline import pgprograms
from pipeline.child import free_port
from pipeline.localpg import LocalPostgres

BROKEN = b'{"source": "broken"'


def produce(deployment: Deployment, events: Iterator[tuple[str, str, dict[str, Any]]], rate: float = 0.0) -> int:
    broker = deployment.settings.broker
    count = 0
    pause = threading.Event()
    with closing(KafkaProducer(bootstrap_servers=broker.servers, linger_ms=2)) as producer:
        for stream, key, event in events:
            producer.send(f"{broker.prefix}.{stream}", json.dumps(event).encode(), key=key.encode())
            count += 1
            if rate and count % 20 == 0:
                pause.wait(20 / rate)  # paces the sender
        producer.flush()
    return count


def check_accounts(deployment: Deployment, count: int) -> None:
    """Every event once in the database, in order within its key, its scored message on the topic.

    One that was in work whenever a worker was killed, three times, is a dead letter instead, with all its bytes.
    """
    rows = deployment.rows("SELECT id, stream, source, event_id FROM events ORDER BY id")
    stored = [row.event_id for row in rows]
    letters = deployment.rows("SELECT reason, attempts, value FROM dead_letters")
    assert {(letter.reason, letter.attempts) for letter in letters} <= {("poison", 3)}
    sent = {event["id"]: event for _, _, event in numbered(count)}
    given_up = [json.loads(bytes(letter.value)) for letter in letters]
    assert all(event == sent[event["id"]] for event in given_up)
    assert sorted([*stored, *(event["id"] for event in given_up)]) == sorted(sent)
    by_key: dict[str, list[int]] = defaultdict(list)
    for event_id in stored:
        key, _, number = event_id.rpartition("-")
        by_key[key].append(int(number))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    prefix = deployment.settings.broker.prefix
    published = {json.loads(record.value)["id"] for record in deployment.consume(f"{prefix}.scored")}
    assert published == set(stored)


def test_every_event_survives_kills_and_a_termination_exactly_once(
    broker: Any, database: str, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(broker.servers, database)
    count, chosen = 5_000, random.Random(7)
    workers = [deployment.worker(), deployment.worker()]
    sender = threading.Thread(target=produce, args=(deployment, numbered(count), 450.0))
    sender.start()
    # Five kills and one termination while events flow, each when so many events are stored.
    for step, threshold in enumerate(sorted(chosen.sample(range(300, 4_600), 6))):
        deployment.until(lambda at=threshold: deployment.counts()[0] >= at, f"{threshold} events")
        victim = step % 2
        if step == 3:
            deployment.until(partial(workers[victim].has_logged, "started"), "the worker to work")
            assert workers[victim].terminate() == 0
        else:
            workers[victim].kill()
        workers[victim] = deployment.worker()
    sender.join()
    deployment.until_handled(count)
    new, repeated, dead = deployment.counts()
    # Five kills can hit one event three times, and then no other.
    assert (new + dead, repeated, dead in (0, 1)) == (count, 0, True)
    for worker in workers:
        deployment.until(partial(worker.has_logged, "started"), "the worker to work")
        assert worker.terminate() == 0
    check_accounts(deployment, count)


def test_a_broken_event_becomes_a_dead_letter_with_its_bytes(
    broker: Any, database: str, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(broker.servers, database)
    settings = deployment.settings.broker
    with closing(KafkaProducer(bootstrap_servers=settings.servers)) as producer:
        producer.send(f"{settings.prefix}.news", BROKEN, key=b"k", headers=[("origin", b"\xff")])
        producer.flush()
    deployment.worker()
    deployment.until_handled(1)
    deployment.until(lambda: deployment.consume(f"dlq.{settings.prefix}.news"), "the dead letter")
    (letter,) = deployment.consume(f"dlq.{settings.prefix}.news")
    assert (letter.key, letter.value) == (b"k", BROKEN)
    headers = dict(letter.headers)
    assert headers["origin"] == b"\xff"
    assert headers["salience-reason"] == b"undecodable"


def test_sigterm_in_the_middle_of_a_chunk_finishes_that_chunk(
    kafka: Any, postgres: LocalPostgres, database: str, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(kafka.servers, database)
    worker = deployment.worker()
    produce(deployment, numbered(50))
    deployment.until_handled(50)
    name = database.rpartition("/")[2]
    with _locked(postgres, name, "events") as release:
        produce(deployment, ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(50)))
        deployment.until(lambda: _waiting(postgres, name), "the chunk to be in its transaction")
        worker.process.send_signal(signal.SIGTERM)
        deployment.until(lambda: worker.process.poll() is not None or _waiting(postgres, name), "SIGTERM")
        release()
    assert worker.process.wait(PATIENCE) == 0
    in_work = deployment.counts()[0] - 50
    assert in_work > 0
    # What it finished it also acknowledged: the next worker meets no repeats.
    deployment.worker()
    deployment.until_handled(100)
    assert deployment.counts() == (100, 0, 0)


def test_sigterm_under_a_backlog_finishes_what_is_in_work_and_repeats_nothing(
    kafka: Any, database: str, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(kafka.servers, database, worker={"chunk": 20})
    produce(deployment, numbered(3_000))
    worker = deployment.worker()
    deployment.until(lambda: deployment.counts()[0] >= 300, "the first chunks")
    assert worker.terminate() == 0
    assert deployment.counts()[0] < 3_000
    deployment.worker()
    deployment.until_handled(3_000)
    # A repeated chunk would publish its scored messages again.
    topic = f"{deployment.settings.broker.prefix}.scored"
    deployment.until(lambda: len(deployment.consume(topic)) >= 3_000, "the scored messages")
    assert len(deployment.consume(topic)) == 3_000


def test_sigterm_with_the_broker_away_exits_zero(
    kafka_server: Callable[..., KafkaServer], database: str, deploy: Callable[..., Deployment]
) -> None:
    server = kafka_server()
    deployment = deploy(server.servers, database, worker={"shutdown_timeout": 5})
    worker = deployment.worker()
    produce(deployment, numbered(100))
    deployment.until_handled(100)
    server.kill()
    assert worker.terminate() == 0


def test_sigterm_with_the_database_away_exits_zero(
    kafka: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    with _own_postgres() as server:
        deployment = deploy(kafka.servers, server.url(server.create()), worker={"shutdown_timeout": 5})
        worker = deployment.worker()
        produce(deployment, numbered(100))
        deployment.until_handled(100)
        server.stop()
        produce(deployment, numbered(100))
        deployment.until(lambda: worker.has_logged("waiting"), "the outage to be noticed")
        assert worker.terminate() == 0


def test_a_worker_waits_through_an_outage_of_the_database(kafka: Any, deploy: Callable[..., Deployment]) -> None:
    with _own_postgres() as server:
        deployment = deploy(kafka.servers, server.url(server.create()))
        worker = deployment.worker()
        produce(deployment, numbered(100))
        deployment.until_handled(100)
        server.kill()
        produce(deployment, ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(100)))
        deployment.until(lambda: worker.has_logged("waiting"), "the outage to be noticed")
        server.start()
        deployment.until_handled(200)
        assert deployment.counts() == (200, 0, 0)
        assert worker.process.poll() is None


def test_an_outage_beyond_the_deadline_ends_the_worker_without_acknowledging(
    kafka: Any, deploy: Callable[..., Deployment]
) -> None:
    with _own_postgres() as server:
        deployment = deploy(kafka.servers, server.url(server.create()), database={"outage_deadline": 2})
        worker = deployment.worker()
        produce(deployment, numbered(100))
        deployment.until_handled(100)
        server.stop()
        produce(deployment, ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(100)))
        assert worker.process.wait(PATIENCE) == 1
        (told,) = [each for each in worker.events() if each.get("event") == "stopping"]
        assert (told["reason"], told["level"]) == ("database", "error")
        server.start()
        deployment.worker()
        deployment.until_handled(200)
        assert deployment.counts() == (200, 0, 0)


def test_a_worker_goes_on_after_the_broker_was_killed_and_started_again(
    kafka_server: Callable[..., KafkaServer], database: str, deploy: Callable[..., Deployment]
) -> None:
    server = kafka_server()
    deployment = deploy(server.servers, database)
    worker = deployment.worker()
    produce(deployment, numbered(200))
    deployment.until_handled(200)
    server.kill()
    server.start()
    produce(deployment, ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(200)))
    deployment.until_handled(400)
    assert deployment.counts() == (400, 0, 0)
    assert worker.process.poll() is None


def test_the_supervisor_replaces_a_worker_that_was_killed(
    kafka: Any, database: str, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(kafka.servers, database)
    supervisor = deployment.worker("--workers", "2")
    produce(deployment, numbered(300))
    deployment.until_handled(300)
    first = _children(supervisor.process.pid)
    assert len(first) == 2
    _kill(first[0])
    deployment.until(
        lambda: len(_children(supervisor.process.pid)) == 2 and first[0] not in _children(supervisor.process.pid),
        "a new worker",
    )
    produce(deployment, ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(300)))
    deployment.until_handled(600)
    assert deployment.counts()[0] == 600
    workers = _children(supervisor.process.pid)
    assert supervisor.terminate() == 0
    assert not any(_alive(pid) for pid in workers)


def test_a_worker_shows_metrics_health_and_readiness(
    embedded_broker: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    port = free_port()
    deployment = deploy(embedded_broker.servers, f"sqlite:///{tmp_path / 's.db'}", worker={"port": port})
    worker = deployment.worker()
    deployment.until(lambda: _get(port, "/readyz")[0] == 200, "readiness")
    produce(deployment, numbered(100))
    deployment.until_handled(100)
    assert _get(port, "/healthz") == (200, "alive\n")
    deployment.until(lambda: "salience_last_progress" in _get(port, "/metrics")[1], "metrics")
    metrics = _get(port, "/metrics")[1]
    stored = sum(
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("salience_events_total") and 'outcome="stored"' in line
    )
    assert stored == 100
    assert worker.terminate() == 0


def test_a_taken_port_gets_a_sentence(
    embedded_broker: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    port = free_port()
    deployment = deploy(embedded_broker.servers, f"sqlite:///{tmp_path / 's.db'}", worker={"port": port})
    deployment.worker()
    deployment.until(lambda: _get(port, "/healthz")[0] == 200, "the first worker")
    second = deployment.worker()
    assert second.process.wait(PATIENCE) == 2
    assert "another worker may have it" in second.log()
    assert "Traceback" not in second.log()


def test_a_worker_that_is_told_to_stop_while_it_starts_exits_zero(tmp_path: Path, prefix: str) -> None:
    # An address that takes connections and never answers keeps the worker at its start.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        deployment = Deployment(tmp_path, servers, f"sqlite:///{tmp_path / 's.db'}", prefix)
        worker = deployment.prepare(topics=False).worker()
        silent.accept()
        assert worker.terminate() == 0


def test_a_worker_without_topics_says_which_are_missing(embedded_broker: Any, tmp_path: Path, prefix: str) -> None:
    deployment = Deployment(tmp_path, embedded_broker.servers, f"sqlite:///{tmp_path / 's.db'}", prefix)
    deployment.prepare(topics=False)
    worker = deployment.worker()
    assert worker.process.wait(PATIENCE) == 2
    assert "salience topics create" in worker.log()


def test_a_worker_without_a_broker_says_so(tmp_path: Path, prefix: str) -> None:
    deployment = Deployment(tmp_path, f"127.0.0.1:{free_port()}", f"sqlite:///{tmp_path / 's.db'}", prefix)
    deployment.prepare(topics=False)
    worker = deployment.worker()
    assert worker.process.wait(PATIENCE) == 1
    assert "cannot be reached" in worker.log()
    assert "Traceback" not in worker.log()


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except OSError:
        return 0, ""


def _own_postgres() -> LocalPostgres:
    why = pgprograms.available()
    if why is not None:
        pytest.skip(why)
    return LocalPostgres(fsync=False)


class _locked:  # noqa: N801 - used as a statement
    """Holds an exclusive lock on a table from a connection of its own."""

    def __init__(self, server: LocalPostgres, database: str, table: str) -> None:
        self._arguments = (server, database, table)
        self._release = threading.Event()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        import asyncio

        import asyncpg

        server, database, table = self._arguments

        async def hold() -> None:
            connection = await asyncpg.connect(server.url(database).replace("+asyncpg", ""))
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                self._held.set()
                await asyncio.to_thread(self._release.wait)
            await connection.close()

        asyncio.run(hold())

    def __enter__(self) -> Callable[[], None]:
        self._thread.start()
        self._held.wait(PATIENCE)
        return self._release.set

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._thread.join()


def _waiting(server: LocalPostgres, database: str) -> int:
    found = server.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    )
    return int(found[0][0])


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def _kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)
