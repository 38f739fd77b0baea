"""Servers for the tests, each started once a session and only when a test asks for it."""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Address, KafkaServer, missing, sasl, tls
from tiny_bundle import tiny_base, tiny_bundle
from workers import Deployment

from pipeline import embedded, pgprograms
from pipeline.embedded import EmbeddedBroker
from pipeline.localpg import LocalPostgres

pytest_plugins = ["strict"]

# Processes of a parallel run are given a width, which consoles made in them would keep.
os.environ.pop("COLUMNS", None)

# Whoever asks for a fixture needs its server: the marker follows.
MARKERS = {
    "embedded_broker": "broker",
    "kafka": "kafka",
    "kafka_server": "kafka",
    "kafka_sasl": "kafka",
    "kafka_tls": "kafka",
    "postgres": "postgres",
    "tiny": "train",
    "random_base": "train",
}
KEPT = re.compile(r"SALIENCE_TEST_\w+|SALIENCE_DATA")  # settings of the tests, not of the product


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the servers it needs."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKERS:
                item.add_marker(MARKERS[fixture])


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SALIENCE_") and not KEPT.fullmatch(name):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        for folder in ("CONFIG", "CACHE", "DATA", "STATE"):
            patch.setenv(f"XDG_{folder}_HOME", str(home / folder.lower()))
        if Path("salience.toml").exists():
            patch.setenv("SALIENCE_CONFIG", os.devnull)
        yield


@pytest.fixture(autouse=True)
def _environment_is_put_back() -> Iterator[None]:
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    for name in after.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if after.get(name) != value})


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT of random weights, 32 wide; leave it as it is."""
    _needs_training()
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle with every kind of head, in fp32; base, data and recipe lie beside it. Leave it."""
    _needs_training()
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and groups that no other test uses: brokers are shared."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """The embedded broker."""
    why = embedded.available()
    if why is not None:
        pytest.skip(why)
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer | Address]:
    """Apache Kafka, ours from KAFKA_HOME or the one at SALIENCE_TEST_KAFKA (HOST:PORT); leave it running."""
    given = os.environ.get("SALIENCE_TEST_KAFKA")
    if given:
        yield Address(given)
        return
    _needs_kafka()
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[Callable[..., KafkaServer]]:
    """A function that starts a node of the test's own, to stop, kill or configure: KafkaServer's options."""
    _needs_kafka()
    started: list[KafkaServer] = []

    def start(**options: object) -> KafkaServer:
        server = KafkaServer(tmp_path / f"kafka-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def kafka_sasl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Apache Kafka that asks for user and password: servers.sasl()."""
    _needs_kafka()
    with KafkaServer(tmp_path_factory.mktemp("kafka-sasl"), security=sasl()) as server:
        yield server


@pytest.fixture(scope="module")
def kafka_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Apache Kafka that speaks TLS only: servers.tls(); the authority is client["ssl_cafile"]."""
    _needs_kafka()
    folder = tmp_path_factory.mktemp("kafka-tls")
    with KafkaServer(folder, security=tls(folder / "stores")) as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param("embedded_broker", id="embedded", marks=pytest.mark.broker),
        pytest.param("kafka", id="kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker | KafkaServer | Address:
    """Each kind of broker in turn; `.servers` is its address."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """A PostgreSQL server without fsync; leave it running."""
    why = pgprograms.available()
    if why is not None:
        pytest.skip(why)
    with LocalPostgres(fsync=False) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each kind of server in turn."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'salience.db'}"
        return
    server: LocalPostgres = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def database(postgres: LocalPostgres) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL, for workers."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def deploy(tmp_path: Path, prefix: str) -> Iterator[Callable[..., Deployment]]:
    """A function that makes an installation, ready for workers: Deployment's arguments."""
    made: list[Deployment] = []

    def make(servers: str, database: str, /, **sections: dict[str, Any]) -> Deployment:
        made.append(Deployment(tmp_path, servers, database, prefix, **sections))
        return made[-1].prepare()

    yield make
    for deployment in made:
        deployment.close()


def _needs_training() -> None:
    for package in ("torch", "transformers", "peft", "onnx"):
        pytest.importorskip(package, reason=f"needs {package}: install salience[train]")


def _needs_kafka() -> None:
    why = missing()
    if why is not None:
        pytest.skip(why)
