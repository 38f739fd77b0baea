"""Workers as processes raise the alerts of rules that count, once, whoever of them lives."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from day import LEARNT, burst, rule, story, written
from helpers import EVENT_TIME, SECOND
from kafka import KafkaProducer
from workers import Deployment

from pipeline.times import rfc3339


def send(deployment: Deployment, events: Sequence[tuple[float, str]], source: str = "wire") -> None:
    broker = deployment.settings.broker
    with closing(KafkaProducer(bootstrap_servers=broker.servers)) as producer:
        for moment, text in events:
            time = rfc3339(EVENT_TIME + round(moment * SECOND))
            body = {"id": f"{source}-{moment}", "source": source, "time": time, "text": text}
            producer.send(f"{broker.prefix}.news", json.dumps(body).encode())
        producer.flush()


def decided(deployment: Deployment, moment: float) -> bool:
    """Whether all decisions before this moment are taken."""
    tick = (EVENT_TIME + round(moment * SECOND)) // (10 * SECOND) - 1
    found = deployment.rows("SELECT decided_tick FROM watermarks WHERE stream = 'news' AND run = ''")
    return bool(found) and found[0].decided_tick >= tick


def alerts_sent(deployment: Deployment) -> list[dict[str, Any]]:
    topic = f"{deployment.settings.broker.prefix}.alerts"
    return [json.loads(record.value) for record in deployment.consume(topic)]


def test_a_surge_is_told_once_though_workers_die(
    broker: Any, database: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    file = written(tmp_path / "rules.yaml", rule())
    deployment = deploy(broker.servers, database, rules={"file": file}, broker={"partitions": 1})
    first = deployment.worker()
    send(deployment, [(at * 10.0 + 1, story(at)) for at in range(LEARNT // 10)])
    deployment.until_handled(LEARNT // 10)
    first.kill()
    second = deployment.worker()
    send(deployment, burst(LEARNT + 10, 40))
    send(deployment, [(LEARNT + 35, "tick")], "clock")
    deployment.until(lambda: decided(deployment, LEARNT + 30), "the surge to be decided on")
    second.kill()
    deployment.worker()
    send(deployment, [(LEARNT + 405, "tick")], "clock")
    deployment.until(lambda: decided(deployment, LEARNT + 400), "the end to be decided on")
    unsent = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
    deployment.until(lambda: deployment.rows(unsent)[0][0] == 0, "all to be sent")

    told = {(each["rule"], each["state"], each["version"]) for each in alerts_sent(deployment)}
    # A worker that was killed with the first version in its hands leaves it to the second, which replaces it.
    [(replaced,)] = deployment.rows("SELECT count(*) FROM outbox WHERE error = 'superseded by version 2'")
    firing = ("surge", "firing", 1)
    assert told - {firing} == {("surge", "resolved", 2)}
    assert firing in told or replaced
    [alert] = deployment.rows("SELECT state, version FROM alerts")
    assert tuple(alert) == ("resolved", 2)


def test_a_changed_rules_file_is_taken_up_without_a_restart(
    broker: Any, database: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    file = written(tmp_path / "rules.yaml", rule())
    deployment = deploy(broker.servers, database, rules={"file": file}, broker={"partitions": 1})
    worker = deployment.worker()
    send(deployment, [(at * 10.0 + 1, story(at)) for at in range(LEARNT // 10)])
    deployment.until_handled(LEARNT // 10)
    written(tmp_path / "rules.yaml", rule(window="2h"))
    deployment.until(lambda: worker.has_logged("rules not taken"), "the bad file to be told of")
    written(tmp_path / "rules.yaml", rule(severity="critical"))
    active = "SELECT count(*) FROM rule_activations WHERE active_tick IS NOT NULL"
    deployment.until(lambda: deployment.rows(active)[0][0] == 6, "the changed rules to be in force")
    send(deployment, burst(LEARNT + 10, 40))
    send(deployment, [(LEARNT + 35, "tick")], "clock")
    deployment.until(lambda: decided(deployment, LEARNT + 30), "the surge to be decided on")

    [alert] = deployment.rows("SELECT severity FROM alerts")
    assert alert.severity == "critical"
