"""A rule's numbers in seconds, as the surge test takes them."""

from pipeline.rules import CountRule
from pipeline.surge.volume import Plan

_SECOND = 1e6


def plan_of(rule: CountRule) -> Plan:
    """What a rule asks for, in seconds."""
    return Plan(
        window=rule.window / _SECOND,
        every=rule.every / _SECOND,
        baseline=rule.baseline / _SECOND,
        minimum=rule.minimum,
        sensitivity=rule.sensitivity,
        rearm=rule.rearm / _SECOND,
        hold=rule.hold / _SECOND,
    )
