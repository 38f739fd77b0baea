"""Rules as code: a YAML file, checked against its schema and against what the model can say.

A match rule judges each event by itself. The others look at counts: `volume` at their surge, `share` at that of a
label among them, `absence` at silence.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipeline.durations import parse_duration
from pipeline.places import problem_at, repeated_key, yaml_problem
from pipeline.receivers import Receivers, Severity, parse_receivers
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
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    kind: str
    stream: Literal["news", "chat", "behavior"]
    severity: Severity = "medium"

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
_KINDS: Mapping[str, type[_Rule]] = {
    get_args(rule.model_fields["kind"].annotation)[0]: rule
    for rule in (MatchRule, VolumeRule, ShareRule, AbsenceRule)
}


class _File(_Part):
    rules: tuple[Annotated[AnyRule, Field(discriminator="kind")], ...] = ()
    receivers: dict[str, Any] = {}


# What stands at each depth of the file besides a rule, which is of its kind: rules, conditions, one head's
# condition.
_PARTS: Mapping[int, type[_Part]] = {1: _File, 2: _File, 4: Conditions, 6: HeadCondition}


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
            ValidationError: it is of another release.
        """
        return cls(_File.model_validate({"rules": content}).rules)

    def of(self, stream: str) -> tuple[MatchRule, ...]:
        """The match rules of a stream: those that an event meets by itself."""
        return tuple(rule for rule in self.rules if isinstance(rule, MatchRule) and rule.stream == stream)


def load_rules(path: str, labels: Mapping[str, Labels] | None = None, *, receivers: bool = True) -> RuleSet:
    """Read and check a rules file; an empty path gives no rules.

    `labels` gives, by stream, the heads that a scorer has and their labels; without it they are not checked.
    Without `receivers` their addresses are not read, and need nothing of the environment.

    Raises:
        ConfigError: names file, line, field, and what is allowed.
    """
    if not path:
        return RuleSet()
    try:
        text = Path(path).read_text(encoding="utf-8")
        loaded, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"the rules file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the rules file {path} is not UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the rules file {path} is no YAML: {yaml_problem(error)}") from None
    twice = repeated_key(tree)
    if twice is not None:
        raise ConfigError(f"{path}, line {twice[0]}, {twice[1]}: stands here a second time; keep one of the two")
    try:
        file = _File.model_validate(loaded or {})
    except ValidationError as error:
        first = error.errors()[0]
        where, message = _found(first)
        raise ConfigError(problem_at(path, tree, where, message)) from None
    rules = file.rules
    _check_names(path, tree, rules, file.receivers)
    if labels is not None:
        _check_labels(path, tree, rules, labels)

    def tell(where: tuple[int | str, ...], message: str) -> ConfigError:
        return ConfigError(problem_at(path, tree, where, message))

    return RuleSet(rules, parse_receivers(file.receivers, tell) if receivers else None)


def _check_names(path: str, tree: Any, rules: tuple[AnyRule, ...], receivers: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        for name in rule.receivers:
            if name not in receivers:
                known = f"this file has {', '.join(receivers)}" if receivers else "this file has no `receivers:`"
                told = f"{name!r} is no receiver; {known}"
                raise ConfigError(problem_at(path, tree, ("rules", index, "receivers"), told))
        if rule.name in seen:
            raise ConfigError(
                problem_at(
                    path, tree, ("rules", index, "name"), f"{rule.name!r} is taken; a name is a rule's identity"
                )
            )
        seen.add(rule.name)


def check_served(rules: RuleSet, labels: Mapping[str, Labels], bundle: str) -> None:
    """Refuse a bundle that lacks a head or label that a rule names; `labels` as in `load_rules`.

    Raises:
        ConfigError: names rule, head and label, and what the bundle has.
    """
    for index, _, problem in _unserved(rules.rules, labels):
        rule = rules.rules[index]
        raise ConfigError(
            f"{bundle} cannot serve the rule {rule.name} (rules {rules.version}): {problem}; "
            "change the rule where workers load it, or take another bundle"
        )


def _check_labels(path: str, tree: Any, rules: tuple[AnyRule, ...], labels: Mapping[str, Labels]) -> None:
    for index, where, problem in _unserved(rules, labels):
        raise ConfigError(problem_at(path, tree, ("rules", index, *where), problem))


def _unserved(
    rules: tuple[AnyRule, ...], labels: Mapping[str, Labels]
) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Number of the rule, where in it, and what the model lacks."""
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


def _found(error: ErrorDetails) -> tuple[tuple[int | str, ...], str]:
    """Where in the file an error is, and what to say of it."""
    where, kind = error["loc"], "match"
    if error["type"].startswith("union_tag"):
        allowed = [repr(each) for each in _KINDS]
        told = f"Input should be {', '.join(allowed[:-1])} or {allowed[-1]}"
        return (*where, "kind"), told if error["type"] == "union_tag_invalid" else f"Field required. {told}"
    if len(where) > 2:
        # The validator names the kind that it took between the rule's number and the field; the file does not.
        kind, where = str(where[2]), (*where[:2], *where[3:])
    if error["type"] == "extra_forbidden":
        part = _KINDS[kind] if len(where) == 3 else _PARTS[len(where)]
        return where, f"is unknown; known here are {', '.join(part.model_fields)}"
    return where, error["msg"].removeprefix("Value error, ")


def _hash(value: Any) -> str:
    return hashlib.blake2b(encode_json(value), digest_size=16).hexdigest()
