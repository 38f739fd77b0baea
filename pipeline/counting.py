"""What an event counts for: the groups of a rule, and the label that a share rule looks at."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.conditions import Facts, Test
from pipeline.gazetteer.mentions import identities
from pipeline.gazetteer.names import without_suffix
from pipeline.rules import CountRule, ShareRule
from schemas.messages import Entity
from schemas.scores import Answer, EntityResult, HeadResult

# Characters of a group's name that are kept; what is longer shares its group with what begins alike.
_NAME = 200
# Heads that answer for an entity, and what a head that finds entities calls a company.
_COMPANY = "company"
_ENTITY_HEAD = "entity"


class Counted:
    """A rule that is counted under the number of its row in `definitions`; `ticks` are those of one bucket."""

    def __init__(self, number: int, rule: CountRule, tick: int) -> None:
        """`tick` is the width of a tick in microseconds."""
        self.number = number
        self.rule = rule
        self.ticks = rule.every // tick
        self._test = Test(rule.when)

    def sightings(self, facts: Facts) -> list[tuple[str, str]]:
        """(group, label) for which an event counts, each group once; the label is empty where none is asked."""
        if not self._test.passes(facts):
            return []
        found: dict[str, str] = {}
        for group, label in self._labelled(facts):
            found.setdefault(group[:_NAME], label)
        return list(found.items())

    def _labelled(self, facts: Facts) -> Iterator[tuple[str, str]]:
        rule = self.rule
        if not isinstance(rule, ShareRule):
            yield from ((group, "") for group, _ in _groups(rule.group_by, facts))
            return
        for group, span in _groups(rule.group_by, facts):
            label = _label(span.heads.get(rule.head) if span is not None else None)
            label = label or _label(facts.heads.get(rule.head))
            if label is not None:
                yield group, label


def _label(answer: Answer | None) -> str | None:
    # What is unsure still has a likeliest label, and the confusion matrix is one of likeliest labels.
    return answer.label if answer is not None and answer.decision in ("label", "unsure") else None


def _groups(group_by: str | None, facts: Facts) -> Iterator[tuple[str, EntityResult | None]]:
    """Names of groups, for an entity with what the model found of it in the text."""
    if group_by is None:
        yield "", None
    elif group_by == "entity":
        yield from _entities(facts)
    elif group_by == "source":
        yield facts.source, None
    elif group_by == "topic":
        topic = facts.heads.get("topic")
        if topic is not None and topic.decision == "label":
            yield topic.label, None
    else:
        value = facts.attributes.get(group_by)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | int | float) and each != "":
                yield _written(each), None


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entities(facts: Facts) -> Iterator[tuple[str, EntityResult | None]]:
    """Companies by ticker where one is known, else by name; those that the model alone finds by their words."""
    spans = _companies(facts.heads.get(_ENTITY_HEAD))
    used: set[int] = set()
    for entity in facts.entities:
        name = _name(entity)
        if not name:
            continue
        called = identities([entity])
        same = [at for at, span in enumerate(spans) if without_suffix(span.text).casefold() in called]
        used.update(same)
        yield name, spans[same[0]] if same else None
    for at, span in enumerate(spans):
        if at not in used and span.text.strip():
            yield without_suffix(span.text).upper(), span


def _companies(head: HeadResult | None) -> Sequence[EntityResult]:
    found = getattr(head, "entities", None)
    return [each for each in found if each.type == _COMPANY] if isinstance(found, list) else []


def _name(entity: Entity) -> str:
    if isinstance(entity, str):
        return entity.strip().upper()
    for key in ("ticker", "symbol"):
        if isinstance(entity.get(key), str) and entity[key].strip():
            return str(entity[key]).strip().upper()
    name = entity.get("name")
    return without_suffix(name).upper() if isinstance(name, str) else ""
