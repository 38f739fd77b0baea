"""Rules as code: what a rule may say, and what the model must have for it.

A match rule judges each event by itself. The others look at counts: `volume` at their surge, `share` at that of a
label among them, `absence` at silence.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.durations import parse_duration
from pipeline.receivers import Receivers, Severity
from schemas.errors import ConfigError, UsageError
from schemas.events import encode_json

Labels = Mapping[str, tuple[str, ...]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, (str, int, float, bool)) else value


class HeadCondition(_Part):
    """One of `label`, at least as probable as `probability` (0 to 1)."""

    label: tuple[str, ...] = Field(min_length=1)
    probability: float = Field(0.0, ge=0.0, le=1.0)

    _one_label = field_validator("label", mode="before")(_as_tuple)


class Conditions(_Part):
    """All of them must hold; within one, any of its values."""

    heads: dict[str, HeadCondition] = {}
    words: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    attributes: dict[str, tuple[str | int | float | bool, ...]] = {}

    _one_value = field_validator("words", "source", "entities", mode="before")(_as_tuple)

    @field_validator("attributes", mode="before")
    @classmethod
    def _one_attribute(cls, value: Any) -> Any:
        return {name: _as_tuple(each) for name, each in value.items()} if isinstance(value, dict) else value

    @field_validator("entities")
    @classmethod
    def _no_empty_entity(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(each.strip() for each in value):
            raise ValueError("holds an empty entity; name a ticker or a company")
        return value

    @field_validator("words")
    @classmethod
    def _no_empty_word(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in value):
            raise ValueError("holds an empty word, which every text has; take it out")
        return value

    @model_validator(mode="after")
    def _something(self) -> "Conditions":
        if not (self.heads or self.words or self.source or self.entities or self.attributes):
            raise ValueError(
                "is empty and would match every event; name heads, words, source, entities or attributes"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> Any:
        # What a later version adds must not change the definitions of rules that do not use it.
        dumped = dump(self)
        if not self.entities:
            dumped.pop("entities", None)
        return dumped


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("is no length of time; write a number and s, m, h, d or w, as in 90d")
    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


# Microseconds, written as 1h or 14d.
Duration = Annotated[int, BeforeValidator(_duration), PlainSerializer(lambda value: f"{value // 1_000_000}s")]
# Microseconds.
_TICK = 10_000_000
# Windows that a baseline holds at least, so that it can say what is usual.
_WINDOWS = 8


class _Rule(_Part):
    name: str = Field(max_length=100)
    kind: str
    stream: Literal["news", "chat", "behavior"]
    severity: Severity = "medium"

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("is no name; it begins with a letter or digit and holds only those, '.', '_' and '-'")
        return value

    @field_validator("when", check_fields=False)
    @classmethod
    def _stream_has_entities(cls, value: Conditions | None, info: ValidationInfo) -> Conditions | None:
        if value and value.entities and info.data.get("stream") == "behavior":
            raise ValueError("names entities, which behavior events do not have; use news or chat, or attributes")
        return value

    @property
    def definition(self) -> str:
        """Hash of what the rule says, its name and whom it tells aside: 32 hex digits."""
        return _hash(self.model_dump(mode="json", exclude={"name", "receivers"}))


class MatchRule(_Rule):
    """An alert for each new event that meets the conditions."""

    kind: Literal["match"]
    when: Conditions
    receivers: tuple[str, ...] = ()

    _one_receiver = field_validator("receivers", mode="before")(_as_tuple)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> Any:
        dumped = dump(self)
        if not self.receivers:
            dumped.pop("receivers", None)
        return dumped

    @property
    def baseline(self) -> int:
        """Microseconds of stored events that the rule looks back on: none, it judges each event by itself."""
        return 0


class CountRule(_Rule):
    """What the rules that look at counts have in common; times in microseconds.

    group_by: entity, source, topic, or any attribute; each group is judged by itself. sensitivity: expected false
    alerts a week over all groups. counts: a story once, however often it is repeated (distinct), or every event
    (raw). hold: for so long evidence must last before the alert fires. rearm: after so long without evidence it is
    resolved, and can come again.
    """

    when: Conditions | None = None
    group_by: str | None = Field(None, min_length=1, max_length=100)
    baseline: Duration = Field("14d", validate_default=True)
    window: Duration = Field("1h", validate_default=True)
    every: Duration = Field("1m", validate_default=True)
    minimum: int = Field(3, ge=1)
    sensitivity: float = Field(1.0, gt=0.0, le=20.0)
    counts: Literal["distinct", "raw"] = "distinct"
    hold: Duration = Field("0s", validate_default=True)
    rearm: Duration = Field("6h", validate_default=True)
    receivers: tuple[str, ...] = ()

    _one_receiver = field_validator("receivers", mode="before")(_as_tuple)

    @field_validator("baseline", "window", "every")
    @classmethod
    def _in_ticks(cls, value: int) -> int:
        if value <= 0 or value % _TICK:
            raise ValueError("is no multiple of 10s, the tick at which decisions are taken")
        return value

    @field_validator("window")
    @classmethod
    def _within_baseline(cls, value: int, info: ValidationInfo) -> int:
        baseline = info.data.get("baseline", value * _WINDOWS)
        if value > baseline:
            raise ValueError("is longer than the baseline, which says what is usual and holds 8 windows or more")
        if value * _WINDOWS > baseline:
            raise ValueError("is too long: the baseline, which says what is usual, holds 8 windows or more")
        return value

    @field_validator("every")
    @classmethod
    def _within_window(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("window", value):
            raise ValueError("is longer than the window; what comes between would be seen by no decision")
        if info.data.get("window", value) % value:
            raise ValueError("does not divide the window, which is a whole number of such steps")
        return value


class VolumeRule(CountRule):
    """An alert when the count of a window is a surge."""

    kind: Literal["volume"]


class AbsenceRule(CountRule):
    """An alert when nothing came for so long, at least for `window`, that it is no accident."""

    kind: Literal["absence"]


class ShareRule(CountRule):
    """An alert when the share of `label` of `head` is a surge, however many events there are."""

    kind: Literal["share"]
    head: str
    label: tuple[str, ...] = Field(min_length=1)

    _one_label = field_validator("label", mode="before")(_as_tuple)


AnyRule = MatchRule | VolumeRule | ShareRule | AbsenceRule
KINDS: Mapping[str, type[_Rule]] = {
    get_args(rule.model_fields["kind"].annotation)[0]: rule
    for rule in (MatchRule, VolumeRule, ShareRule, AbsenceRule)
}


class File(_Part):
    rules: tuple[Annotated[AnyRule, Field(discriminator="kind")], ...] = ()
    receivers: dict[str, Any] = {}


# What stands at each depth of the file besides a rule, which is of its kind: rules, conditions, one head's
# condition.
PARTS: Mapping[int, type[_Part]] = {1: File, 2: File, 4: Conditions, 6: HeadCondition}


class RuleSet:
    """The rules in force. `version` is a hash of all of them, `baseline` the longest of theirs (microseconds).

    `receivers` are no part of `content` and `version`: they are secrets of the process.
    """

    def __init__(self, rules: Sequence[AnyRule] = (), receivers: Receivers | None = None) -> None:
        self.rules = tuple(rules)
        self.receivers = receivers or {}
        self.content = [rule.model_dump(mode="json") for rule in rules]
        self.version = _hash(self.content)
        self.baseline = max((rule.baseline for rule in rules), default=0)

    @classmethod
    def of_content(cls, content: Sequence[Any]) -> "RuleSet":
        """The rule set with this `content`, as a database keeps it.

        Raises:
            pydantic.ValidationError: it is of another release.
        """
        return cls(File.model_validate({"rules": content}).rules)

    def of(self, stream: str) -> tuple[MatchRule, ...]:
        """The match rules of a stream: those that an event meets by itself."""
        return tuple(rule for rule in self.rules if isinstance(rule, MatchRule) and rule.stream == stream)


def check_served(rules: RuleSet, labels: Mapping[str, Labels], bundle: str) -> None:
    """Refuse a bundle that lacks a head or label that a rule names; `labels` gives heads and labels by stream.

    Raises:
        ConfigError: names rule, head and label, and what the bundle has.
    """
    for index, _, problem in unserved(rules.rules, labels):
        rule = rules.rules[index]
        raise ConfigError(
            f"{bundle} cannot serve the rule {rule.name} (rules {rules.version}): {problem}; "
            "change the rule where workers load it, or take another bundle"
        )


def unserved(
    rules: tuple[AnyRule, ...], labels: Mapping[str, Labels]
) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Of each thing that the model lacks: the number of the rule, where in it, and what it is."""
    for index, rule in enumerate(rules):
        heads = labels.get(rule.stream, {})
        for head, of_head, label, of_label in _named(rule):
            if head not in heads:
                has = ", ".join(heads) or "none"
                yield index, of_head, f"the model has no head {head!r} for {rule.stream}; it has {has}"
                continue
            for each in label:
                if each not in heads[head]:
                    yield index, of_label, f"{each!r} is no label of {head}; it has {', '.join(heads[head])}"


def _named(rule: AnyRule) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Each head that a rule names and where, with its labels and where."""
    for head, each in (rule.when.heads if rule.when else {}).items():
        where = ("when", "heads", head)
        yield head, where, each.label, (*where, "label")
    if isinstance(rule, ShareRule):
        yield rule.head, ("head",), rule.label, ("label",)


def _hash(value: Any) -> str:
    return hashlib.blake2b(encode_json(value), digest_size=16).hexdigest()
