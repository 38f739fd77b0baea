"""What the tests of the rules share: a rule from its conditions."""

from typing import Any

from pipeline.rules import MatchRule


def rule(name: str = "r", stream: str = "news", **when: Any) -> MatchRule:
    return MatchRule.model_validate({"name": name, "kind": "match", "stream": stream, "when": when})
