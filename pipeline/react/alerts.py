"""Match rules: an alert, with the attention words as evidence, once for each new event that meets a rule."""

from collections.abc import Sequence
from typing import Any

from pipeline.conditions import facts_of
from pipeline.in_force import Match
from pipeline.notify import messages
from pipeline.rules import MatchRule
from pipeline.store.transaction import Transaction
from pipeline.work import AlertRow, NewEvent
from schemas.errors import ReactionError
from schemas.events import Event
from schemas.scores import Score

# Characters of the text that an alert quotes.
_QUOTE = 500


class MatchAlerts:
    """Applies the match rules that are in force."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        matches = transaction.rules.matches
        if not matches:
            return
        found = [alert for event in new for alert in matching(matches, event)]
        if not found:
            return
        stored = await transaction.add_alerts(found)
        await transaction.send([each for _, alert in stored for each in messages(self._topic, alert)])


def matching(matches: Sequence[Match], new: NewEvent) -> list[AlertRow]:
    """The alerts that an event raises.

    Raises:
        ReactionError: a rule fails on it.
    """
    try:
        facts = facts_of(new)
        return [_alert(each.rule, each.definition, new) for each in matches if each.test.passes(facts)]
    except Exception as error:
        event = new.event
        raise ReactionError(
            f"the rules fail on {event.stream}/{event.source}/{event.id}: {type(error).__name__}: {error}"
        ) from error


def _alert(rule: MatchRule, definition: str, new: NewEvent) -> AlertRow:
    event = new.event
    return AlertRow(
        rule=rule.name,
        group="",
        episode=f"{event.stream}/{event.source}/{event.id}",
        kind=rule.kind,
        state="fired",
        severity=rule.severity,
        stream=event.stream,
        start=event.time,
        visible_tick=new.visible_tick,
        definition=definition,
        bundle=new.bundle,
        evidence=_evidence(event, new.score),
        event=new.id,
        receivers=rule.receivers,
    )


def _evidence(event: Event, score: Score | None) -> dict[str, Any]:
    heads = score.heads if score else {}
    return {
        "source": event.source,
        "id": event.id,
        "text": event.text[:_QUOTE],
        "heads": {
            name: {
                "label": result.label,
                "probability": result.probability,
                "words": [[word.text, word.weight] for word in result.words],
            }
            for name, result in heads.items()
        },
    }
