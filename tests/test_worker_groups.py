"""A worker and its consumer group: it comes back from wherever it was."""

import asyncio
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient
from test_worker import produce
from workers import PATIENCE, Deployment, numbered

from pipeline.embedded import HOST, EmbeddedBroker

# Seconds; the least that a worker may be told to go without fetching, and a freeze that is longer.
INTERVAL, FREEZE = 10, 12
# Kinds of requests in Kafka's protocol.
HEARTBEAT, LEAVE_GROUP = 12, 13


def test_a_worker_that_did_not_fetch_for_too_long_joins_again(
    kafka: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    # SQLite, which does not end the transaction of a frozen worker: it goes on where it stood.
    deployment = deploy(
        kafka.servers,
        f"sqlite:///{tmp_path / 's.db'}",
        broker={"max_poll_interval": INTERVAL},
        database={"outage_deadline": INTERVAL - 1},
        worker={"chunk": 5},
    )
    first = deployment.worker()
    produce(deployment, numbered(100))
    deployment.until_handled(100)
    assert first.terminate() == 0
    # Only a group that has committed looks at how long ago its members fetched.
    worker = deployment.worker()
    deployment.until(lambda: worker.has_logged('"reading"'), "the worker to read")
    again = ((s, k, {**e, "id": e["id"] + "-b"}) for s, k, e in numbered(3_000))
    produce(deployment, again)
    deployment.until(lambda: deployment.counts()[0] > 150, "the backlog to be begun")
    worker.process.send_signal(signal.SIGSTOP)
    threading.Event().wait(FREEZE)
    worker.process.send_signal(signal.SIGCONT)
    deployment.until_handled(3_100)
    assert deployment.counts() == (3_100, 0, 0)
    assert worker.process.poll() is None


def test_sigterm_is_obeyed_while_the_group_waits_for_another_member(
    kafka: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    # Longer than a test waits: the group does not form before.
    deployment = deploy(kafka.servers, f"sqlite:///{tmp_path / 's.db'}", broker={"session_timeout": 3 * PATIENCE})
    # With a database of its own: frozen, it must hold nothing but its place in the group.
    elsewhere = f"sqlite:///{tmp_path / 'first.db'}"
    Deployment(tmp_path, kafka.servers, elsewhere, deployment.settings.broker.prefix).prepare(topics=False)
    first = deployment.worker(SALIENCE_DATABASE__URL=elsewhere)
    deployment.until(lambda: first.has_logged('"reading"'), "the first worker to read")
    first.process.send_signal(signal.SIGSTOP)
    second = deployment.worker()
    deployment.until(lambda: _group(deployment)["state"] == "PreparingRebalance", "the group to form anew")
    assert second.terminate() == 0
    assert not second.has_logged('"started"')


def test_a_worker_that_ends_leaves_the_group_of_a_kafka_broker(
    kafka: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(kafka.servers, f"sqlite:///{tmp_path / 's.db'}")
    _work_to_the_end(deployment)
    assert _group(deployment)["members"] == []


def test_a_worker_that_ends_says_nothing_to_the_embedded_broker(
    tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    # Told of it while a group forms, it would wait for the one that left.
    with _Listened() as broker:
        deployment = deploy(broker.servers, f"sqlite:///{tmp_path / 's.db'}")
        # The first generation there is 0, in which no client leaves.
        _work_to_the_end(deployment)
        _work_to_the_end(deployment)
        assert HEARTBEAT in broker.asked
        assert LEAVE_GROUP not in broker.asked


def _work_to_the_end(deployment: Deployment) -> None:
    worker = deployment.worker()
    deployment.until(lambda: worker.has_logged('"reading"'), "the worker to read")
    produce(deployment, numbered(10))
    deployment.until_handled(10)
    assert worker.terminate() == 0


def _group(deployment: Deployment) -> dict[str, Any]:
    settings = deployment.settings.broker

    async def ask() -> dict[str, Any]:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.servers)
        await admin.start()
        try:
            (answer,) = await admin.describe_consumer_groups([settings.group])
            ((_, _, state, _, _, members, *_),) = answer.groups
            return {"state": state, "members": members}
        finally:
            await admin.close()

    return asyncio.run(ask())


class _Listened(EmbeddedBroker):
    """An embedded broker whose clients are listened to: the kinds of their requests are in `asked`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[int] = set()
        self._between = socket.create_server((HOST, 0))
        self._opened: list[socket.socket] = []

    @property
    def servers(self) -> str:
        return f"{HOST}:{self._between.getsockname()[1]}"

    def start(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return super().start()

    def stop(self) -> None:
        super().stop()
        self._between.close()
        for each in self._opened:
            each.close()

    def _command(self, program: Path) -> list[str]:
        command = super()._command(program)
        command[command.index("--listener-url") + 1] = f"tcp://{HOST}:{self.port}"
        return command

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._between.accept()
                broker = socket.create_connection((HOST, self.port))
                self._opened += [client, broker]
                threading.Thread(target=self._requests, args=(client, broker), daemon=True).start()
                threading.Thread(target=self._answers, args=(broker, client), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError, struct.error), client.makefile("rb") as sent:
            while True:
                size = sent.read(4)
                request = sent.read(*struct.unpack(">i", size))
                self.asked.add(struct.unpack_from(">h", request)[0])
                broker.sendall(size + request)

    def _answers(self, broker: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while got := broker.recv(65_536):
                client.sendall(got)
