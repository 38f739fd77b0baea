"""Workers tell receivers what fires, beside their chunks, and take up other receivers while they run."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from day import LEARNT, burst, day, rule
from desk import SECRET, desk
from kafka import KafkaProducer
from standardwebhooks import Webhook
from workers import Deployment

from pipeline.dispatch import Dispatch
from pipeline.wording import body
from schemas.messages import Alert

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
        self.server.gate.wait()
        # Who sent it may have been killed meanwhile.
        with contextlib.suppress(ConnectionError):
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


class Keeper(http.server.ThreadingHTTPServer):
    """Keeps (path, webhook id, alert) of each webhook whose signature holds; answers while `gate` is open."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = threading.Event()
        self.gate.set()
        self.got: list[tuple[str, str, dict[str, Any]]] = []


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper() as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        yield it
        it.gate.set()
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


def test_what_a_killed_worker_had_just_told_is_told_once_more_under_the_same_id(
    embedded_broker: Any, database: str, deploy: Callable[..., Deployment], tmp_path: Path, keeper: Keeper
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.format(port=keeper.server_port, path="one", secret=SECRET))
    deployment = deploy(embedded_broker.servers, database, rules={"file": str(file)})
    keeper.gate.clear()
    first = deployment.worker()
    send(deployment, 0, 1)
    deployment.until(lambda: keeper.got, "the notification")
    first.kill()
    keeper.gate.set()

    deployment.worker()
    send(deployment, 1, 1)
    unsent = "SELECT count(*) FROM outbox WHERE receiver = 'to:desk' AND sent_at IS NULL"
    deployment.until(
        lambda: len(keeper.got) == 2 and deployment.rows(unsent)[0][0] == 1, "another notification, and its mark"
    )
    deployment.run("UPDATE outbox SET lease_until = 1 WHERE receiver = 'to:desk' AND sent_at IS NULL")
    deployment.until(lambda: deployment.rows(unsent)[0][0] == 0, "what the dead worker had leased")
    told = [identity for _, identity, _ in keeper.got]
    assert told == [told[0], told[1], told[0]]
    assert told[0] != told[1]


async def test_a_surge_is_told_when_it_begins_and_when_it_is_over(database_url: str, tmp_path: Path) -> None:
    async with desk() as it:
        receivers = {"desk": {"webhook": f"{it.url}/hook", "secret": SECRET}}
        async with day(database_url, tmp_path, rule(receivers=["desk"]), receivers=receivers) as today:
            [pipeline] = today.pipelines
            sending = Dispatch(today.database, lambda: pipeline.watch.rules.receivers, today.clock)
            await today.usual()
            await today.reach(LEARNT)
            await today.tell(*burst(LEARNT + 10, 40))
            for moment in (LEARNT + 30, LEARNT + 40, LEARNT + 400):
                await today.reach(moment)
                today.clock.now += 1
                await sending.round()
                await sending.idle()
            await sending.close()
    begun, over = (json.loads(each["body"]) for each in it.got)
    assert (begun["rule"], begun["state"], begun["version"]) == ("surge", "firing", 1)
    assert (over["id"], over["state"], over["version"]) == (begun["id"], "resolved", 2)
    lines = body(msgspec.convert(over, Alert)).splitlines()
    assert lines[0].startswith(
        "volume rule surge on news, severity medium: resolved, from 2024-05-31T10:30:20Z until"
    )
    assert "times the usual; expected once in" in lines[1]
    assert sum(line.startswith("- wire: word") for line in lines) == 5


def told_elsewhere(deployment: Deployment, keeper: Keeper) -> bool:
    """Send one more, and wait until all that fired was told; whether it was told to another address."""
    send(deployment, 100 + len(keeper.got), 1)
    deployment.until_handled(len(keeper.got) + 1)
    deployment.until(
        lambda: len(keeper.got) == deployment.rows("SELECT count(*) FROM alerts")[0][0], "all to be told"
    )
    return any(path == "/other" for path, _, _ in keeper.got)
