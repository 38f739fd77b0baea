"""The rules by which a chunk's events are judged and counted, made ready."""

from collections.abc import Sequence

from msgspec import Struct

from pipeline.conditions import Test
from pipeline.counting import Counted
from pipeline.rules import MatchRule, RuleSet


class Match(Struct, frozen=True):
    """A match rule, ready to be asked."""

    rule: MatchRule
    test: Test
    definition: str


class InForce(Struct, frozen=True):
    """`version` stands in the rows of events; None where no rules are in force. `counted` holds rules of the next
    version, too, while they are counted ahead.
    """

    version: str | None = None
    matches: Sequence[Match] = ()
    counted: Sequence[Counted] = ()


def matches_of(rules: RuleSet, stream: str) -> list[Match]:
    """The match rules of a stream."""
    return [Match(rule, Test(rule.when), rule.definition) for rule in rules.of(stream)]
