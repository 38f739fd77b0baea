"""What is said of an alert, and to whom: the topic, and the receivers that its rule names."""

from collections.abc import Collection

import msgspec
from msgspec import Struct

from pipeline.times import rfc3339
from pipeline.work import AlertRow, Message, alert_name
from schemas.messages import Alert

# States that receivers are told of; an alert that is pending or acknowledged is told to the topic alone.
TOLD = ("fired", "firing", "resolved")

Entry = tuple[str, Message, int | None]


class Notice(Struct):
    """One state of one alert for one receiver; `value` is the alert message, `identity` the same at each attempt.

    `reached` numbers the receiver's addresses that have it already.
    """

    identity: str
    value: bytes
    row: int = 0
    alert: int | None = None
    reached: Collection[int] = ()


def messages(topic: str, alert: AlertRow) -> list[Entry]:
    """(identity, message, event row) for the outbox; one state of an alert is told once to each."""
    body = body_of(alert)
    key, value = body.id.encode(), msgspec.json.encode(body)
    message = Message(topic, key, value, version=alert.version, alert=alert.id)
    entries: list[Entry] = [(f"{body.id}:{alert.state}:topic:{topic}", message, alert.event)]
    for name in alert.receivers if alert.state in TOLD else ():
        told = Message("", key, value, version=alert.version, to=name, alert=alert.id)
        entries.append((f"{body.id}:{alert.state}:to:{name}", told, alert.event))
    return entries


def correction(topic: str, alert: AlertRow) -> Entry:
    """The same state once more, for the topic: what the alert quotes has changed."""
    body = body_of(alert)
    message = Message(topic, body.id.encode(), msgspec.json.encode(body), version=alert.version, alert=alert.id)
    return f"{body.id}:{alert.state}:{alert.version}:topic:{topic}", message, alert.event


def state_of(identity: str) -> str:
    """The state that an entry for a receiver tells of."""
    return identity.rpartition(":to:")[0].rpartition(":")[2]


def body_of(alert: AlertRow) -> Alert:
    """The alert as readers get it."""
    return Alert(
        id=alert_name(alert.rule, alert.group, alert.episode),
        rule=alert.rule,
        group=alert.group,
        episode=alert.episode,
        kind=alert.kind,
        state=alert.state,
        version=alert.version,
        severity=alert.severity,
        stream=alert.stream,
        start=rfc3339(alert.start),
        end=None if alert.end is None else rfc3339(alert.end),
        definition=alert.definition,
        bundle=alert.bundle,
        evidence=alert.evidence,
    )
