"""Workers tell receivers what fires, beside their chunks, and take up other receivers while they run."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import SECRET
from kafka import KafkaProducer
from standardwebhooks import Webhook
from workers import Deployment

RULES = """
receivers:
  desk: {{webhook: 'http://127.0.0.1:{port}/{path}', secret: {secret}}}
rules:
  - {{name: bad-news, kind: match, stream: news, receivers: desk, when: {{words: bankrupt}}}}
"""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: "Keeper"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Webhook(SECRET).verify(body, dict(self.headers))
        self.server.got.append((self.path, self.headers["webhook-id"], json.loads(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


class Keeper(http.server.ThreadingHTTPServer):
    """Keeps (path, webhook id, alert) of each webhook whose signature holds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, str, dict[str, Any]]] = []


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper() as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        yield it
        it.shutdown()
        thread.join()


def send(deployment: Deployment, first: int, count: int) -> None:
    broker = deployment.settings.broker
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    for number in range(first, first + count):
        event = {"source": f"s{number % 7}", "id": str(number), "text": "Corvane is bankrupt"}
        event["time"] = "2024-05-31T09:30:00Z"
        producer.send(f"{broker.prefix}.news", json.dumps(event).encode(), key=event["source"].encode())
    producer.flush()
    producer.close()


def test_two_workers_tell_a_receiver_of_each_alert_once(
    embedded_broker: Any, database: str, deploy: Callable[..., Deployment], tmp_path: Path, keeper: Keeper
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.format(port=keeper.server_port, path="one", secret=SECRET))
    deployment = deploy(embedded_broker.servers, database, rules={"file": str(file)})
    workers = [deployment.worker(), deployment.worker()]
    send(deployment, 0, 60)
    deployment.until(lambda: len(keeper.got) >= 60, "60 notifications")

    file.write_text(RULES.format(port=keeper.server_port, path="other", secret=SECRET))
    deployment.until(lambda: told_elsewhere(deployment, keeper), "notifications to another address")

    told = [number for _, number, _ in keeper.got]
    assert len(told) == len(set(told)) == deployment.rows("SELECT count(*) FROM alerts")[0][0]
    assert {alert["state"] for _, _, alert in keeper.got} == {"fired"}
    assert [worker.terminate() for worker in workers] == [0, 0]


def told_elsewhere(deployment: Deployment, keeper: Keeper) -> bool:
    """Send one more, and wait until all that fired was told; whether it was told to another address."""
    send(deployment, 100 + len(keeper.got), 1)
    deployment.until_handled(len(keeper.got) + 1)
    deployment.until(
        lambda: len(keeper.got) == deployment.rows("SELECT count(*) FROM alerts")[0][0], "all to be told"
    )
    return any(path == "/other" for path, _, _ in keeper.got)
