"""Whether an event meets a rule's conditions: asked of events on their way in, and of stored ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct

from pipeline.gazetteer.mentions import identities
from pipeline.rules import Conditions, HeadCondition
from pipeline.work import NewEvent
from schemas.messages import Entity
from schemas.scores import Answer, HeadResult


class Facts(Struct):
    """What rules ask of an event."""

    source: str
    text: str
    entities: Sequence[Entity]
    attributes: Mapping[str, Any]
    heads: Mapping[str, HeadResult]

    def answers(self, head: str) -> Sequence[Answer]:
        """What a head says of the text, or of each of its entities."""
        if head in self.heads:
            return [self.heads[head]]
        return [
            entity.heads[head]
            for result in self.heads.values()
            if result.entities is not UNSET
            for entity in result.entities
            if head in entity.heads
        ]

    def answer(self, head: str) -> Answer | None:
        """What it says, of the first entity where it answers for entities."""
        return next(iter(self.answers(head)), None)


def facts_of(new: NewEvent) -> Facts:
    """Of an event on its way in."""
    event = new.event
    heads = new.score.heads if new.score else {}
    return Facts(event.source, event.text, event.entities or (), event.attributes, heads)


class Test:
    """Conditions, made ready; without any every event passes."""

    def __init__(self, when: Conditions | None) -> None:
        self._when = when
        self._pattern = _words_pattern(when.words) if when else None
        self._entities = identities(when.entities) if when else frozenset()

    def passes(self, facts: Facts) -> bool:
        when = self._when
        if when is None:
            return True
        if when.source and facts.source not in when.source:
            return False
        if self._pattern is not None and self._pattern.search(facts.text) is None:
            return False
        if self._entities and self._entities.isdisjoint(identities(facts.entities)):
            return False
        if not all(_has(facts.attributes.get(name), wanted) for name, wanted in when.attributes.items()):
            return False
        return all(
            any(_says(answer, condition) for answer in facts.answers(name))
            for name, condition in when.heads.items()
        )


def _says(answer: Answer, condition: HeadCondition) -> bool:
    if answer.decision != "label":
        return False
    return answer.label in condition.label and answer.probability >= condition.probability


def _has(value: Any, wanted: Sequence[Any]) -> bool:
    return any(each in wanted for each in value) if isinstance(value, list) else value in wanted


def _words_pattern(words: Sequence[str]) -> "re.Pattern[str] | None":
    if not words:
        return None
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(word) for word in words) + r")(?!\w)", re.IGNORECASE)
