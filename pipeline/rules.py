"""Rules as code: a YAML file, checked against its schema and against what the model can say."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from schemas.errors import ConfigError
from schemas.events import encode_json

Labels = Mapping[str, tuple[str, ...]]
Severity = Literal["info", "low", "medium", "high", "critical"]


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
    attributes: dict[str, tuple[str | int | float | bool, ...]] = {}

    _one_value = field_validator("words", "source", mode="before")(_as_tuple)

    @field_validator("attributes", mode="before")
    @classmethod
    def _one_attribute(cls, value: Any) -> Any:
        return {name: _as_tuple(each) for name, each in value.items()} if isinstance(value, dict) else value

    @field_validator("words")
    @classmethod
    def _no_empty_word(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in value):
            raise ValueError("holds an empty word, which every text has; take it out")
        return value

    @model_validator(mode="after")
    def _something(self) -> "Conditions":
        if not (self.heads or self.words or self.source or self.attributes):
            raise ValueError("is empty and would match every event; name heads, words, source or attributes")
        return self


class MatchRule(_Part):
    """An alert for each new event that meets the conditions."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    kind: Literal["match"]
    stream: Literal["news", "chat", "behavior"]
    severity: Severity = "medium"
    when: Conditions

    @property
    def definition(self) -> str:
        """Hash of what the rule says, name aside: 32 hex digits."""
        return _hash(self.model_dump(mode="json", exclude={"name"}))

    @property
    def baseline(self) -> int:
        """Microseconds of stored events that the rule looks back on: none, it judges each event by itself."""
        return 0


class _File(_Part):
    rules: tuple[MatchRule, ...] = ()


# What stands at each depth of the file: the rules, a rule, its conditions, one head's condition.
_PARTS: Mapping[int, type[_Part]] = {1: _File, 3: MatchRule, 4: Conditions, 6: HeadCondition}


class RuleSet:
    """The rules in force. `version` is a hash of all of them, `baseline` the longest of theirs (microseconds)."""

    def __init__(self, rules: tuple[MatchRule, ...] = ()) -> None:
        self.rules = rules
        self.content = [rule.model_dump(mode="json") for rule in rules]
        self.version = _hash(self.content)
        self.baseline = max((rule.baseline for rule in rules), default=0)

    def of(self, stream: str) -> tuple[MatchRule, ...]:
        return tuple(rule for rule in self.rules if rule.stream == stream)


def load_rules(path: str, labels: Mapping[str, Labels] | None = None) -> RuleSet:
    """Read and check a rules file; an empty path gives no rules.

    `labels` gives, by stream, the heads that a scorer has and their labels; without it they are not checked.

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
        raise ConfigError(f"the rules file {path} is no YAML: {_yaml_problem(error)}") from None
    try:
        rules = _File.model_validate(loaded or {}).rules
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_problem(path, tree, first["loc"], _message(first))) from None
    _check_names(path, tree, rules)
    if labels is not None:
        _check_labels(path, tree, rules, labels)
    return RuleSet(rules)


def _check_names(path: str, tree: Any, rules: tuple[MatchRule, ...]) -> None:
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        if rule.name in seen:
            raise ConfigError(
                _problem(
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


def _check_labels(path: str, tree: Any, rules: tuple[MatchRule, ...], labels: Mapping[str, Labels]) -> None:
    for index, where, problem in _unserved(rules, labels):
        raise ConfigError(_problem(path, tree, ("rules", index, "when", "heads", *where), problem))


def _unserved(
    rules: tuple[MatchRule, ...], labels: Mapping[str, Labels]
) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Number of the rule, where in its heads, and what the model lacks."""
    for index, rule in enumerate(rules):
        heads = labels.get(rule.stream, {})
        for head, condition in rule.when.heads.items():
            if head not in heads:
                has = ", ".join(heads) or "none"
                yield index, (head,), f"the model has no head {head!r} for {rule.stream}; it has {has}"
                continue
            for label in condition.label:
                if label not in heads[head]:
                    problem = f"{label!r} is no label of {head}; it has {', '.join(heads[head])}"
                    yield index, (head, "label"), problem


def _message(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"is unknown; known here are {', '.join(_PARTS[len(error['loc'])].model_fields)}"
    return error["msg"].removeprefix("Value error, ")


def _problem(path: str, tree: Any, where: tuple[int | str, ...], message: str) -> str:
    field = ".".join(str(part) for part in where) or "the file"
    return f"{path}, line {_line(tree, where)}, {field}: {message}"


def _line(node: Any, where: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `where` that the file has."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _hash(value: Any) -> str:
    return hashlib.blake2b(encode_json(value), digest_size=16).hexdigest()
