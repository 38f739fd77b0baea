"""What rules would have fired on plain series, in the words of an alert."""

from collections.abc import Sequence

from msgspec import Struct

from pipeline.rules import AbsenceRule, AnyRule, VolumeRule
from pipeline.surge.odds import odds
from pipeline.surge.plans import plan_of
from pipeline.surge.plot import Panel
from pipeline.surge.sensitivity import WEEK
from pipeline.surge.series import Alert, Series, Track, follow
from pipeline.times import rfc3339
from schemas.errors import UsageError

_SECOND = 1e6


class Fired(Struct, frozen=True):
    """An alert as it would have been; `end` is the last moment with evidence, None while it goes on."""

    rule: str
    group: str
    start: str
    end: str | None
    value: float
    baseline: float
    odds: str


class Group(Struct, frozen=True):
    """How often a rule fired on a group."""

    rule: str
    group: str
    alerts: int
    weeks: float
    alerts_per_week: float


class Summary(Struct, frozen=True):
    """alerts_per_week: of each group, all rules together."""

    alerts: int
    alerts_per_week: dict[str, float]
    groups: list[Group]


class Backtest(Struct, frozen=True):
    alerts: list[Fired]
    summary: Summary


def backtest(rules: Sequence[AnyRule], many: Sequence[Series]) -> tuple[Backtest, list[Panel]]:
    """Each volume and absence rule on each series, which is a group of its own and has the whole sensitivity.

    Raises:
        UsageError: no rule can be applied to a plain series, or a series does not suit a rule.
    """
    counting = [rule for rule in rules if isinstance(rule, VolumeRule | AbsenceRule)]
    if not counting:
        raise UsageError("the file has no rule of kind volume or absence; a plain series suits no other")
    fired: list[Fired] = []
    groups: list[Group] = []
    panels: list[Panel] = []
    for rule in counting:
        for series in many:
            track = follow(series, plan_of(rule), rule.kind)
            fired += [_fired(rule.name, series, alert) for alert in track.alerts]
            groups.append(_group(rule.name, series, track))
            panels.append(_panel(rule.name, series, track))
    return Backtest(sorted(fired, key=lambda each: (each.start, each.rule, each.group)), summary(groups)), panels


def _fired(rule: str, series: Series, alert: Alert) -> Fired:
    return Fired(
        rule=rule,
        group=series.name,
        start=_time(series, alert.row),
        end=_time(series, alert.last) if alert.over else None,
        value=alert.value,
        baseline=float(f"{alert.expected:.4g}"),
        odds=odds(alert.value, alert.expected, alert.log_rate),
    )


def _time(series: Series, row: int) -> str:
    """When the decision on a row could be taken: at the end of its counts."""
    return rfc3339(round((series.start + (row + 1) * series.step) * _SECOND))


def _group(rule: str, series: Series, track: Track) -> Group:
    weeks = len(series.counts) * series.step / WEEK
    return Group(rule, series.name, len(track.alerts), round(weeks, 2), round(len(track.alerts) / weeks, 3))


def summary(groups: Sequence[Group]) -> Summary:
    """All groups together."""
    together: dict[str, float] = {}
    for each in groups:
        together[each.group] = round(together.get(each.group, 0.0) + each.alerts_per_week, 3)
    return Summary(sum(each.alerts for each in groups), together, list(groups))


def _panel(rule: str, series: Series, track: Track) -> Panel:
    alerts = [(alert.row, alert.last) for alert in track.alerts]
    title = f"{rule} on {series.name}: count of the window (blue), baseline (green), alerts (red)"
    return Panel(title, series.start, series.step, track.values, track.expected, alerts)
