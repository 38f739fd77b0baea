"""A file of rules (YAML): read, checked against the schema and what the model can say, and all mistakes told."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.mistakes import sentence
from pipeline.places import problem_at, repeated_key, yaml_problem
from pipeline.receivers import Receiver, Receivers, parse_receivers
from pipeline.rules import KINDS, PARTS, File, Labels, RuleSet, unserved
from schemas.errors import ConfigError

Where = tuple[int | str, ...]

# Mistakes that are told at once.
_MOST = 20


def load_rules(
    path: str, labels: Mapping[str, Labels] | None = None, *, receivers: bool = True, anew: bool = False
) -> RuleSet:
    """Read and check a rules file; an empty path gives no rules.

    `labels` gives, by stream, the heads that a scorer has and their labels; without it they are not checked.
    Without `receivers` their addresses are not read, and need nothing of the environment. Read `anew`, a file
    without `rules:` is refused: it may have been written to its half, and would end the rules in force.

    Raises:
        ConfigError: names file, line, field, and what is allowed, a line for each mistake.
    """
    if not path:
        return RuleSet()
    loaded, tree = _read(path)
    try:
        file = File.model_validate(loaded)
    except ValidationError as error:
        raise _mistakes(path, tree, dict.fromkeys(map(_found, error.errors()))) from None
    if anew and "rules" not in file.model_fields_set:
        raise ConfigError(f"the rules file {path} has no `rules:`; write `rules: []` where none are wanted")
    problems = [*_of_names(file)]
    if labels is not None:
        problems += [(("rules", index, *where), told) for index, where, told in unserved(file.rules, labels)]
    found, more = _receivers(file.receivers) if receivers else ({}, [])
    if problems or more:
        raise _mistakes(path, tree, [*problems, *more])
    return RuleSet(file.rules, found)


def _read(path: str) -> tuple[Any, Any]:
    """What the file says, and the tree that tells where."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        loaded, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"the rules file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the rules file {path} is not UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the rules file {path} is no YAML: {yaml_problem(error)}") from None
    if loaded is None:
        # An editor that is about to write leaves an empty file; whoever wants no rules says so.
        raise ConfigError(f"the rules file {path} is empty; write `rules: []` where none are wanted")
    twice = repeated_key(tree)
    if twice is not None:
        raise ConfigError(f"{path}, line {twice[0]}, {twice[1]}: stands here a second time; keep one of the two")
    return loaded, tree


def _mistakes(path: str, tree: Any, problems: Iterable[tuple[Where, str]]) -> ConfigError:
    told = [problem_at(path, tree, where, message) for where, message in problems]
    if len(told) > _MOST:
        told[_MOST:] = [f"{path} has {len(told) - _MOST} mistakes more"]
    return ConfigError("\n".join(told))


def _of_names(file: File) -> Iterator[tuple[Where, str]]:
    """Names that rules share, and receivers that the file does not have."""
    seen: set[str] = set()
    known = f"this file has {', '.join(file.receivers)}" if file.receivers else "this file has no `receivers:`"
    for index, rule in enumerate(file.rules):
        for name in rule.receivers:
            if name not in file.receivers:
                yield ("rules", index, "receivers"), f"{name!r} is no receiver; {known}"
        if rule.name in seen:
            yield ("rules", index, "name"), f"{rule.name!r} is taken; a name is a rule's identity"
        seen.add(rule.name)


def _receivers(content: Mapping[str, Any]) -> tuple[Receivers, list[tuple[Where, str]]]:
    """The receivers, and what is wrong with the others, the first thing of each."""
    found: dict[str, Receiver] = {}
    problems = []
    for name, each in content.items():
        try:
            found |= parse_receivers({name: each}, _MisplacedError)
        except _MisplacedError as error:
            problems.append((error.where, str(error)))
    return found, problems


class _MisplacedError(Exception):
    """Something is wrong at one place of the file."""

    def __init__(self, where: Where, message: str) -> None:
        super().__init__(message)
        self.where = where


def _found(error: ErrorDetails) -> tuple[Where, str]:
    """Where in the file an error is, and what to say of it."""
    where, kind = error["loc"], "match"
    if error["type"].startswith("union_tag"):
        allowed = [repr(each) for each in KINDS]
        told = f"allowed are {', '.join(allowed[:-1])} or {allowed[-1]}"
        missing = error["type"] == "union_tag_not_found"
        return (*where, "kind"), f"is missing; {told}" if missing else f"is not allowed; {told}"
    if len(where) > 2:
        # The validator names the kind that it took between the rule's number and the field; the file does not.
        kind, where = str(where[2]), (*where[:2], *where[3:])
    if error["type"] == "extra_forbidden":
        part = KINDS[kind] if len(where) == 3 else PARTS[len(where)]
        return where, f"is unknown; known here are {', '.join(part.model_fields)}"
    if "attributes" in where[:-1]:
        # It is told once for each kind of value that would have been right.
        where = where[: where.index("attributes") + 2]
        return where, "holds what is no text, number, true or false; write one of them, or a list"
    return where, sentence(error)
