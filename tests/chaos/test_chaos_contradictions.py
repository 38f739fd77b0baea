"""The broker contradicts what was noted: topics made again, records deleted unread, partitions added."""

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crew import SupervisedCrew, send, state
from faults import add_partitions
from feed import Sent, script
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from servers import KafkaServer, missing
from workers import PATIENCE, Deployment, Worker

from pipeline import admin, pgprograms
from pipeline.localpg import LocalPostgres
from pipeline.topics import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
COUNT = 400
# The first field of a record's key in the topic of the groups.
_GROUP_METADATA = 2
ACCEPT = "salience topics accept"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A node of these tests' own: its topics come and go."""
    why = missing() or pgprograms.available()
    if why is not None:
        pytest.skip(why)
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def site(server: KafkaServer, postgres: LocalPostgres, tmp_path: Path, prefix: str) -> Iterator[Deployment]:
    """A deployment without workers yet."""
    name = postgres.create()
    deployment = Deployment(tmp_path, server.servers, postgres.url(name), prefix, broker={"session_timeout": 3})
    yield deployment.prepare()
    deployment.close()
    postgres.drop(name)


def produce(site: Deployment, sent: list[Sent], values: list[bytes], **to: int) -> None:
    """Send events, all of a stream to the partition that `to` names for it."""
    broker = site.settings.broker
    with contextlib.closing(KafkaProducer(bootstrap_servers=broker.servers, metadata_max_age_ms=500)) as producer:
        for event, value in zip(sent, values, strict=True):
            topic, partition = f"{broker.prefix}.{event.stream}", to.get(event.stream)
            producer.send(topic, value, key=event.key.encode(), partition=partition)
        producer.flush()


def events(count: int, seed: int = 1, name: str = "") -> tuple[list[Sent], list[bytes]]:
    """Events of a seed; with a name, their ids are others than without."""
    sent, values = script(count, seed)
    renamed = [
        json.dumps({**json.loads(value), "id": f"{name}{event.id}"}).encode()
        for event, value in zip(sent, values, strict=True)
    ]
    return [event._replace(id=f"{name}{event.id}") for event in sent], renamed


def stored(site: Deployment) -> Counter[str]:
    """Event ids of the rows."""
    return Counter(row[0] for row in site.rows("SELECT event_id FROM events"))


@contextlib.contextmanager
def client(site: Deployment) -> Iterator[KafkaAdminClient]:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=site.settings.broker.servers)) as admin_client:
        yield admin_client


def make_again(site: Deployment, topic: str) -> None:
    """Delete a topic and make it again, as an operator does."""

    def gone(admin_client: KafkaAdminClient) -> bool:
        return topic not in admin.existing(admin_client, [topic])

    with client(site) as admin_client:
        admin_client.delete_topics([topic])
        site.until(lambda: gone(admin_client), f"{topic} to be gone")
    site.until(lambda: topic in admin.create_topics(site.settings.broker)[0], f"{topic} to be made again")


def delete_records(site: Deployment, topic: str) -> None:
    """Delete all records that the topic has."""
    with client(site) as admin_client:
        partitions = range(site.settings.broker.partitions)
        # -1 is the end of the partition.
        admin_client.delete_records({TopicPartition(topic, number): -1 for number in partitions})


def accept(site: Deployment) -> str:
    """Run the operator's command."""
    command = [sys.executable, "-m", "pipeline", "topics", "accept"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=site.environment,
        cwd=site.folder,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refuses(worker: Worker, topic: str) -> None:
    """It ends with 2 and a sentence that names the topic and the way out."""
    assert worker.process.wait(PATIENCE) == 2
    [line] = [event for event in worker.events() if event["event"] == "stopping"]
    assert topic in line["message"]
    assert ACCEPT in line["message"]
    assert "Traceback" not in worker.log()


def test_a_topic_made_again_under_running_workers_ends_them_until_the_operator_accepts(site: Deployment) -> None:
    sent, values = events(COUNT)
    workers = [site.worker(), site.worker()]
    produce(site, sent, values)
    site.until_handled(COUNT)
    topic = Topics(site.settings.broker.prefix).inputs["news"]
    make_again(site, topic)
    for worker in workers:
        refuses(worker, topic)
    # Half of what the new topic has was there before.
    again = [(e, v) for e, v in zip(sent, values, strict=True) if e.stream == "news"][:50]
    more = [(e, v) for e, v in zip(*events(COUNT, 2, "b-"), strict=True) if e.stream == "news"][:50]
    both = again + more
    produce(site, [event for event, _ in both], [value for _, value in both])
    refuses(site.worker(), topic)
    assert topic in accept(site)
    site.worker()
    site.until_handled(COUNT + len(both))
    assert stored(site) == Counter([event.id for event in sent] + [event.id for event, _ in more])
    assert site.counts() == (COUNT + len(more), len(again), 0)


def test_a_topic_made_again_while_no_worker_ran_is_met_at_the_start(site: Deployment) -> None:
    sent, values = events(COUNT)
    worker = site.worker()
    produce(site, sent, values)
    site.until_handled(COUNT)
    assert worker.terminate() == 0
    topic = Topics(site.settings.broker.prefix).inputs["chat"]
    make_again(site, topic)
    refuses(site.worker(), topic)


def test_records_deleted_unread_while_no_worker_ran_are_told_and_need_an_acceptance(site: Deployment) -> None:
    sent, values = events(COUNT)
    worker = site.worker()
    produce(site, sent, values)
    site.until_handled(COUNT)
    assert worker.terminate() == 0
    _lose_and_go_on(site, sent, lambda: [site.worker()])


def test_records_deleted_unread_while_the_worker_was_frozen_are_told_and_need_an_acceptance(
    site: Deployment,
) -> None:
    sent, values = events(COUNT)
    worker = site.worker()
    produce(site, sent, values)
    site.until_handled(COUNT)
    send(worker.process.pid, signal.SIGSTOP)
    site.until(lambda: state(worker.process.pid) == "T", "the worker to freeze")
    # Its last fetch is answered by then; until then it would get what comes, and find it when it thaws.
    site.until(lambda: _group(site)["group_state"] == "Empty", "the broker to drop it")

    def thaw() -> list[Worker]:
        send(worker.process.pid, signal.SIGCONT)
        return [worker]

    _lose_and_go_on(site, sent, thaw)


def _lose_and_go_on(site: Deployment, sent: list[Sent], start: Callable[[], list[Worker]]) -> None:
    """News are produced and deleted unread; the workers refuse, the operator accepts, later news are read."""
    topic = Topics(site.settings.broker.prefix).inputs["news"]
    gone = [(e, v) for e, v in zip(*events(COUNT, 2, "gone-"), strict=True) if e.stream == "news"]
    produce(site, [event for event, _ in gone], [value for _, value in gone])
    delete_records(site, topic)
    later = [(e, v) for e, v in zip(*events(COUNT, 3, "later-"), strict=True) if e.stream == "news"]
    produce(site, [event for event, _ in later], [value for _, value in later])
    for worker in start():
        refuses(worker, topic)
    assert topic in accept(site)
    site.worker()
    expected = Counter([event.id for event in sent] + [event.id for event, _ in later])
    site.until(lambda: len(stored(site)) >= len(expected), "the later news")
    assert stored(site) == expected


def test_old_segments_that_were_read_may_go_under_a_running_worker(site: Deployment) -> None:
    sent, values = events(COUNT)
    worker = site.worker()
    produce(site, sent, values)
    site.until_handled(COUNT)
    delete_records(site, Topics(site.settings.broker.prefix).inputs["news"])
    more, more_values = events(COUNT, 2, "b-")
    produce(site, more, more_values)
    site.until_handled(2 * COUNT)
    assert site.counts() == (2 * COUNT, 0, 0)
    assert worker.terminate() == 0


def test_partitions_added_under_running_workers_are_read_from_their_beginning(site: Deployment) -> None:
    sent, values = events(COUNT)
    workers = [site.worker(), site.worker()]
    produce(site, sent, values)
    site.until_handled(COUNT)
    topics = Topics(site.settings.broker.prefix)
    old = site.settings.broker.partitions
    add_partitions(site.settings.broker.servers, dict.fromkeys(topics.inputs.values(), old + 2))
    more, more_values = events(COUNT, 2, "b-")
    produce(site, more, more_values, news=old, chat=old + 1, behavior=old)
    site.until_handled(2 * COUNT)
    assert stored(site) == Counter(event.id for event in [*sent, *more])
    assert all(worker.terminate() == 0 for worker in workers)


def test_a_worker_that_is_restarted_sets_off_no_chain_of_rebalances(site: Deployment) -> None:
    crew = SupervisedCrew(site, 3)
    sent, values = events(COUNT)
    produce(site, sent, values)
    site.until_handled(COUNT)
    site.until(lambda: _members(site) == 3, "all three to be members")
    before = _generation(site)
    victim = crew.pids()[0]
    send(victim, signal.SIGKILL)
    site.until(lambda: victim not in crew.pids() and len(crew.pids()) == 3, "a new worker")
    site.until(lambda: _members(site) == 3 and _generation(site) > before, "it to join")
    more, more_values = events(COUNT, 2, "b-")
    produce(site, more, more_values)
    site.until_handled(2 * COUNT)
    assert stored(site) == Counter(event.id for event in [*sent, *more])
    assert _generation(site) - before <= 2


def _generation(site: Deployment) -> int:
    """The group's generation, from the broker's own log of it: each rebalance adds one."""
    broker = site.settings.broker
    found = [0]
    for record in site.consume("__consumer_offsets"):
        key = Bytes(record.key)
        if key.short() != _GROUP_METADATA or key.text() != broker.group or record.value is None:
            continue
        value = Bytes(record.value)
        value.short(), value.text()
        found.append(value.number())
    return max(found)


class Bytes:
    """Reads what Kafka wrote."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def short(self) -> int:
        return self._take(2)

    def number(self) -> int:
        return self._take(4)

    def text(self) -> str:
        size = self.short()
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def _take(self, size: int) -> int:
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "big", signed=True)


def _group(site: Deployment) -> dict[str, Any]:
    """The group as the broker has it."""
    group = site.settings.broker.group
    with client(site) as admin_client:
        found: dict[str, Any] = admin_client.describe_groups([group])[group]
    return found


def _members(site: Deployment) -> int:
    """Members of the group while it is at rest, else 0."""
    found = _group(site)
    return len(found["members"]) if found["group_state"] == "Stable" else 0
