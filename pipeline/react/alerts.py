"""Match rules: an alert, with the attention words as evidence, once for each new event that meets a rule."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.gazetteer.mentions import identities
from pipeline.notify import messages
from pipeline.rules import Conditions, MatchRule, RuleSet
from pipeline.store.transaction import Transaction
from pipeline.work import AlertRow, NewEvent
from schemas.errors import ReactionError
from schemas.events import Event
from schemas.scores import Score

# Characters of the text that an alert quotes.
_QUOTE = 500


class MatchAlerts:
    """Applies the match rules of one stream."""

    def __init__(self, rules: RuleSet, stream: str, topic: str) -> None:
        self._rules = [
            (rule, _words_pattern(rule.when.words), identities(rule.when.entities), rule.definition)
            for rule in rules.of(stream)
        ]
        self._topic = topic

    async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        if not self._rules:
            return
        found = [alert for event in new for alert in self._matches(event)]
        if not found:
            return
        stored = await transaction.add_alerts(found)
        await transaction.send([each for _, alert in stored for each in messages(self._topic, alert)])

    def _matches(self, new: NewEvent) -> list[AlertRow]:
        try:
            return [
                _alert(rule, definition, new)
                for rule, pattern, wanted, definition in self._rules
                if _meets(rule.when, pattern, wanted, new)
            ]
        except Exception as error:
            event = new.event
            raise ReactionError(
                f"the rules fail on {event.stream}/{event.source}/{event.id}: {type(error).__name__}: {error}"
            ) from error


def _meets(when: Conditions, pattern: "re.Pattern[str] | None", wanted: frozenset[str], new: NewEvent) -> bool:
    event = new.event
    if when.source and event.source not in when.source:
        return False
    if pattern is not None and pattern.search(event.text) is None:
        return False
    if wanted and wanted.isdisjoint(identities(event.entities or ())):
        return False
    if not all(_has(event.attributes.get(name), wanted) for name, wanted in when.attributes.items()):
        return False
    heads = new.score.heads if new.score else {}
    for name, condition in when.heads.items():
        result = heads.get(name)
        if result is None or result.decision != "label":
            return False
        if result.label not in condition.label or result.probability < condition.probability:
            return False
    return True


def _has(value: Any, wanted: Sequence[Any]) -> bool:
    return any(each in wanted for each in value) if isinstance(value, list) else value in wanted


def _words_pattern(words: Sequence[str]) -> "re.Pattern[str] | None":
    if not words:
        return None
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(word) for word in words) + r")(?!\w)", re.IGNORECASE)


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
