"""The embedded broker starts, is told from others, and ends with us."""

import asyncio
import importlib.util
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from pipeline import embedded
from pipeline.child import Child, free_port
from pipeline.embedded import EmbeddedBroker
from schemas.errors import BrokerError, ConfigError

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(embedded.available() is not None, reason=str(embedded.available())),
]
HOLDER = """
import sys, threading
from pipeline.embedded import EmbeddedBroker
def hold():
    broker = EmbeddedBroker().start()
    print(broker.child.pid, broker.port, flush=True)
    kept.append(broker)
kept = []
thread = threading.Thread(target=hold)
thread.start()
thread.join()
print("the thread that started it has ended", flush=True)
sys.stdin.read()
"""


def topics(servers: str) -> set[str]:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def eventually(is_so: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] in "ZX"  # dead, and not yet buried by init
    except OSError:
        return True


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_metadata_names_the_cluster_and_the_address_clients_use(embedded_broker: EmbeddedBroker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=embedded_broker.servers)
    answer = admin.describe_cluster()
    admin.close()

    assert answer["cluster_id"] == embedded_broker.cluster_id
    assert [f"{node['host']}:{node['port']}" for node in answer["brokers"]] == [embedded_broker.servers]


def test_two_brokers_side_by_side_keep_apart() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as other:
        admin = KafkaAdminClient(bootstrap_servers=one.servers)
        admin.create_topics([NewTopic("only-here", 1, 1)])
        admin.close()

        assert "only-here" in topics(one.servers)
        assert "only-here" not in topics(other.servers)


def test_a_port_taken_by_another_broker_gets_a_sentence(embedded_broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match=f"Port {embedded_broker.port} of 127.0.0.1 is taken.*--broker"):
        EmbeddedBroker(embedded_broker.port).start()


def test_a_port_taken_by_another_program_gets_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BrokerError, match="is taken by another program"):
            EmbeddedBroker(other.getsockname()[1]).start()


def test_a_free_port_is_chosen_again_when_another_program_was_quicker() -> None:
    broker = EmbeddedBroker()
    with socket.socket() as other:
        other.bind(("127.0.0.1", broker.port))
        other.listen()
        with broker:
            assert broker.port != other.getsockname()[1]
            broker.check()


def test_it_stops_at_the_end_of_the_block_and_its_port_is_free_again() -> None:
    with EmbeddedBroker() as broker:
        assert broker.child is not None
        pid = broker.child.pid

    assert gone(pid)
    assert refuses(broker.port)
    broker.stop()  # again, to no harm


async def test_async_code_starts_it_without_blocking_the_loop() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    heart = asyncio.create_task(beat())
    async with EmbeddedBroker() as broker:
        broker.check()
    heart.cancel()
    assert beats > 3


def test_a_broker_that_died_is_reported_with_what_it_said() -> None:
    with EmbeddedBroker() as broker:
        assert broker.child is not None
        os.kill(broker.child.pid, signal.SIGKILL)
        broker.child.wait(5)
        with pytest.raises(BrokerError, match=r"ended with exit status -9\. It said: .*tansu"):
            broker.check()


def test_options_in_the_environment_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ID", "of-somebody-else")
    monkeypatch.setenv("STORAGE_ENGINE", "postgres://nowhere")
    with EmbeddedBroker() as broker:
        assert topics(broker.servers) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child at its parent's death")
def test_it_dies_with_a_killed_parent_but_not_with_the_thread_that_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid, port = map(int, holder.stdout.readline().split())
        assert "ended" in holder.stdout.readline()
        assert topics(f"127.0.0.1:{port}") == set()

        holder.kill()
        assert eventually(lambda: gone(pid))


def test_without_the_wheel_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    why = embedded.available()

    assert why is not None and "salience[demo]" in why and "--broker HOST:PORT" in why
    with pytest.raises(ConfigError, match="demo"):
        EmbeddedBroker().start()


def test_on_a_platform_without_a_build_a_sentence_names_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    why = embedded.available()

    assert why is not None and "riscv64" in why and "--broker HOST:PORT" in why and "pip" not in why


def test_a_child_that_ignores_the_request_to_end_is_killed() -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    )
    child = Child([sys.executable, "-c", code])
    assert eventually(lambda: "deaf" in child.output())

    assert child.stop(grace=0.2) == -signal.SIGKILL


def test_a_childs_output_is_kept_to_its_last_lines() -> None:
    child = Child([sys.executable, "-c", "for n in range(5000): print('line', n)"])

    assert child.wait(20) == 0
    assert child.output().splitlines()[-1] == "line 4999"
    assert len(child.output().splitlines()) == 200


def test_a_forgotten_child_is_ended() -> None:
    child = Child([sys.executable, "-c", "import signal; signal.pause()"])
    pid = child.pid
    del child

    assert eventually(lambda: gone(pid))


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    assert {free_port() in range(20_000, 32_000) for _ in range(50)} == {True}
