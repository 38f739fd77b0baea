"""SASL and TLS against a real Kafka, and transactions."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer
from servers import PASSWORD, KafkaServer
from workers import PATIENCE, Deployment, numbered

from pipeline.admin import create_topics
from pipeline.settings import load_settings
from schemas.errors import BrokerError, ConfigError


@pytest.fixture
def deployments() -> Iterator[list[Deployment]]:
    made: list[Deployment] = []
    yield made
    for deployment in made:
        deployment.close()


def secured(server: KafkaServer, folder: Path, prefix: str, **broker: Any) -> Deployment:
    return Deployment(folder, server.servers, f"sqlite:///{folder / 's.db'}", prefix, broker=broker).prepare()


def send_and_wait(deployment: Deployment, server: KafkaServer, protocol: str) -> None:
    settings = deployment.settings.broker
    options = {"bootstrap_servers": server.servers, "security_protocol": protocol, **server.client}
    with closing(KafkaProducer(**options)) as producer:
        for stream, key, event in numbered(60):
            producer.send(f"{settings.prefix}.{stream}", json.dumps(event).encode(), key=key.encode())
        producer.flush()
    worker = deployment.worker()
    deployment.until_handled(60)
    assert deployment.counts() == (60, 0, 0)
    assert worker.terminate() == 0


def test_a_worker_speaks_sasl(
    kafka_sasl: KafkaServer, tmp_path: Path, prefix: str, deployments: list[Deployment]
) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "app", "password": PASSWORD}
    deployment = secured(kafka_sasl, tmp_path, prefix, **login)
    deployments.append(deployment)
    send_and_wait(deployment, kafka_sasl, "SASL_PLAINTEXT")


def test_a_wrong_password_is_named_as_a_possibility(kafka_sasl: KafkaServer, prefix: str) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "app", "password": "wrong"}
    settings = load_settings(broker={"servers": kafka_sasl.servers, "prefix": prefix, **login})
    with pytest.raises(BrokerError, match="a wrong password or user"):
        create_topics(settings.broker)


def test_a_worker_with_a_wrong_password_says_that_it_may_be_wrong(
    kafka_sasl: KafkaServer, tmp_path: Path, prefix: str, deployments: list[Deployment]
) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "app", "password": "wrong"}
    url = f"sqlite:///{tmp_path / 's.db'}"
    deployment = Deployment(tmp_path, kafka_sasl.servers, url, prefix, broker=login).prepare(topics=False)
    deployments.append(deployment)
    worker = deployment.worker()
    assert worker.process.wait(PATIENCE) == 1
    assert "a wrong password or user" in worker.log()
    assert "Traceback" not in worker.log()


def test_a_worker_speaks_tls(
    kafka_tls: KafkaServer, tmp_path: Path, prefix: str, deployments: list[Deployment]
) -> None:
    tls = {"security_protocol": "SSL", "cafile": kafka_tls.client["ssl_cafile"]}
    deployment = secured(kafka_tls, tmp_path, prefix, **tls)
    deployments.append(deployment)
    send_and_wait(deployment, kafka_tls, "SSL")


def test_an_unknown_authority_is_named_as_a_possibility(kafka_tls: KafkaServer, prefix: str) -> None:
    settings = load_settings(broker={"servers": kafka_tls.servers, "prefix": prefix, "security_protocol": "SSL"})
    with pytest.raises(BrokerError, match="CAFILE did not sign"):
        create_topics(settings.broker)


def test_a_missing_certificate_file_gets_a_sentence(prefix: str) -> None:
    settings = load_settings(broker={"security_protocol": "SSL", "cafile": "/nowhere/ca.pem"})
    with pytest.raises(ConfigError, match=r"SALIENCE_BROKER__CAFILE names the file /nowhere/ca\.pem"):
        create_topics(settings.broker)


def test_a_worker_skips_aborted_transactions_when_told_to(
    kafka: Any, tmp_path: Path, prefix: str, deployments: list[Deployment]
) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    deployment = Deployment(tmp_path, kafka.servers, url, prefix, broker={"read_committed": True}).prepare()
    deployments.append(deployment)

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, transactional_id=prefix)
        await producer.start()
        for abort in (True, False):
            await producer.begin_transaction()
            for number in range(10):
                event = {"source": "s", "id": f"{abort}-{number}", "text": "x", "time": "2024-05-31T09:00:00Z"}
                await producer.send(f"{prefix}.news", json.dumps(event).encode(), key=b"s")
            await (producer.abort_transaction() if abort else producer.commit_transaction())
        await producer.stop()

    asyncio.run(produce())
    worker = deployment.worker()
    deployment.until_handled(10)
    assert worker.terminate() == 0
    assert {row.event_id for row in deployment.rows("SELECT event_id FROM events")} == {
        f"False-{number}" for number in range(10)
    }
