"""What is said of an alert, and to whom: the topic, and the receivers that its rule names."""

import msgspec

from pipeline.times import rfc3339
from pipeline.work import AlertRow, Message, alert_name
from schemas.messages import Alert


def messages(topic: str, alert: AlertRow) -> list[tuple[str, Message, int | None]]:
    """(identity, message, event row) for the outbox; one state of an alert is told once to each."""
    body = body_of(alert)
    message = Message(topic, body.id.encode(), msgspec.json.encode(body), version=alert.version)
    return [(f"{body.id}:{alert.state}:topic:{topic}", message, alert.event)]


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
