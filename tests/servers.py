"""Apache Kafka on 127.0.0.1 for tests: one node, broker and controller, from the libs/ of KAFKA_HOME."""

import os
import shutil
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from pipeline.child import Child, free_port

HOST = "127.0.0.1"
POLL = 0.05  # seconds between two questions to a node that is starting
JVM = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
BASE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": "8388608",
    # After a kill a node must wait for the end of its old session (9 s by default) to register again.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
PASSWORD = "a password for tests"


class Address(NamedTuple):
    """A broker that somebody else runs; `client` holds what kafka-python needs beside the address."""

    servers: str
    client: Mapping[str, Any] = {}  # read only


class Security(NamedTuple):
    """How clients speak with a node: the protocol, its side's properties, and the client's options."""

    protocol: str = "PLAINTEXT"
    properties: Mapping[str, str] = {}
    client: Mapping[str, Any] = {}


PLAIN = Security()


class KafkaServer:
    """One node on `port`, its data in `folder`; stopped or killed, it starts again on its data."""

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        security: Security = PLAIN,
        timeout: float = 60.0,
        **properties: str,
    ) -> None:
        """Prepare a node; in `properties` write `_` for `.`, as in log_retention_ms="1000"."""
        self.folder = folder
        self.port = port or free_port()
        self.security = security
        self.child: Child | None = None
        self._controller = free_port()
        self._properties = {name.replace("_", "."): value for name, value in properties.items()}
        self._output = ""
        self._cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        self._timeout = timeout

    @property
    def servers(self) -> str:
        """The bootstrap address, HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def client(self) -> dict[str, Any]:
        """What kafka-python needs beside the address."""
        return {"security_protocol": self.security.protocol, **self.security.client}

    def start(self) -> Self:
        """Start it and wait until it answers as itself; RuntimeError with its output when it does not."""
        config = self._write()
        if not (self.folder / "log" / "meta.properties").exists():
            words = ("kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(config))
            child = Child(_java(*words))
            if child.wait(self._timeout) != 0:
                raise RuntimeError(f"Kafka's storage could not be formatted:\n{child.output()}")
        self.child = Child(_java("kafka.Kafka", str(config)))
        deadline = time.monotonic() + self._timeout
        while not self._answers():
            if self.child.exit_status() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start at {self.servers}:\n{self._output}")
            time.sleep(POLL)
        return self

    def stop(self) -> None:
        """End it in order and keep its data. Safe to call twice."""
        if self.child is not None:
            self.child.stop(grace=20.0)
            self._output, self.child = self.child.output(), None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL) and keep its data."""
        if self.child is not None:
            self.child.kill()
            self._output, self.child = self.child.output(), None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write(self) -> Path:
        name = self.security.protocol
        properties = {
            **BASE,
            "controller.quorum.voters": f"1@{HOST}:{self._controller}",
            "listeners": f"{name}://{self.servers},CONTROLLER://{HOST}:{self._controller}",
            "advertised.listeners": f"{name}://{self.servers}",
            "listener.security.protocol.map": f"{name}:{name},CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": name,
            "log.dirs": str(self.folder / "log"),
            **self.security.properties,
            **self._properties,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        return config

    def _answers(self) -> bool:
        """Whether the node itself answers, and is taken for alive by its controller."""
        try:
            admin = KafkaAdminClient(
                bootstrap_servers=self.servers,
                bootstrap_timeout_ms=1000,
                request_timeout_ms=1000,
                **self.client,
            )
        except (KafkaError, OSError):
            return False
        try:
            answer = admin.describe_cluster()
            return answer["cluster_id"] == self._cluster and bool(answer["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            admin.close()


def missing() -> str | None:
    """Return None when a Kafka can be started here, else why not."""
    home = os.environ.get("KAFKA_HOME", "")
    if not home:
        return "KAFKA_HOME names no folder with Apache Kafka's libs/, nor SALIENCE_TEST_KAFKA a broker's address"
    if not (Path(home) / "libs").is_dir():
        return f"KAFKA_HOME={home} has no folder libs/"
    if shutil.which("java") is None:
        return "Apache Kafka needs Java, and there is no `java` on the PATH"
    return None


def sasl() -> Security:
    """User and password in clear (SASL PLAIN): users `admin` and `app`, password PASSWORD."""
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    users = f'username="admin" password="{PASSWORD}" user_admin="{PASSWORD}" user_app="{PASSWORD}"'
    return Security(
        "SASL_PLAINTEXT",
        {
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{module} required {users};",
        },
        {"sasl_mechanism": "PLAIN", "sasl_plain_username": "app", "sasl_plain_password": PASSWORD},
    )


def tls(folder: Path) -> Security:
    """Encryption with a certificate for 127.0.0.1 by an authority of our own: `client["ssl_cafile"]`, PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, request, signed = folder / "authority.pem", folder / "request.pem", folder / "server.pem"
    key = ("-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2")
    _keytool(folder, *key, "-alias", "ca", "-dname", "CN=test authority", *_ext("bc:c", "ku:c=keyCertSign"))
    _keytool(folder, *key, "-alias", "server", "-dname", "CN=127.0.0.1")
    _keytool(folder, "-exportcert", "-alias", "ca", "-rfc", "-file", str(authority))
    _keytool(folder, "-certreq", "-alias", "server", "-file", str(request))
    files = ("-infile", str(request), "-outfile", str(signed), "-rfc")
    _keytool(folder, "-gencert", "-alias", "ca", *files, *_ext("san=ip:127.0.0.1,dns:localhost"))
    _keytool(folder, "-importcert", "-alias", "server", "-file", str(signed), "-noprompt")
    store = str(folder / "store.p12")
    properties = {
        **{f"ssl.{kind}.location": store for kind in ("keystore", "truststore")},
        **{f"ssl.{kind}.password": PASSWORD for kind in ("keystore", "truststore")},
        **{f"ssl.{kind}.type": "PKCS12" for kind in ("keystore", "truststore")},
        "ssl.key.password": PASSWORD,
    }
    return Security("SSL", properties, {"ssl_cafile": str(authority)})


def _ext(*extensions: str) -> list[str]:
    return [word for extension in extensions for word in ("-ext", extension)]


def _keytool(folder: Path, *words: str) -> None:
    access = ("-keystore", str(folder / "store.p12"), "-storetype", "PKCS12", "-storepass", PASSWORD)
    done = subprocess.run(["keytool", *words, *access], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"keytool {words[0]} failed:\n{done.stdout}{done.stderr}")


def _java(*words: str) -> list[str]:
    java = shutil.which("java")
    assert java is not None
    return [java, *JVM, "-cp", f"{os.environ['KAFKA_HOME']}/libs/*", *words]
