"""An alert in two lines: what it tells, and a text with the words that were looked at."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from pipeline.demo.watch import Alerted
from pipeline.demo.words import COLOURS, highlighted, one_line
from pipeline.times import rfc3339

_SEVERITIES = {"critical": "bold white on red", "high": "bold white on dark_orange3"}


def told_once(alerts: Sequence[Alerted]) -> list[tuple[Alerted, int]]:
    """Several publishers carry the same sentence: the latest of each, and how often it is among these."""
    found: dict[tuple[str, str, Any], tuple[Alerted, int]] = {}
    for alert in alerts:
        key = alert.rule, alert.group, alert.evidence.get("text", alert.time)
        first, times = found.get(key, (alert, 0))
        found[key] = first, times + 1
    return list(found.values())


def alert_lines(alert: Alerted, times: int, heads: tuple[str, ...], width: int) -> Text:
    """`times` it was told by different publishers; `heads` are those that its rule asks; `width` of the text."""
    line = Text.assemble(
        (f" {alert.severity.upper()} ", _SEVERITIES.get(alert.severity, "bold black on yellow")),
        (f" {rfc3339(alert.time)[11:16]} ", "bold"),
        f"{alert.rule} ",
    )
    if alert.counts:
        return _counted(line, alert, width)
    line.append(f"{alert.evidence['source']} ", "dim")
    line.append(f"{times}x " if times > 1 else "", "bold")
    results = [each for name, each in alert.evidence["heads"].items() if name in heads or not heads]
    return _with_text(line, results, str(alert.evidence.get("text", "")), width)


def _counted(line: Text, alert: Alerted, width: int) -> Text:
    """What was counted against what is usual, and the first text that it quotes."""
    evidence = alert.evidence
    value, usual = evidence["value"], evidence["baseline"]
    if alert.kind == "share":
        seen = f"{value:.0%} of {evidence['count']} texts, usually {usual:.0%}"
    else:
        seen = f"{evidence['count']} texts, usually {usual:.1f}"
    line.append(f"{alert.group} " if alert.group else "", "bold")
    line.append(f" {seen}: {evidence['odds']}", "magenta")
    example: Mapping[str, Any] = next(iter(evidence["examples"]), {})
    return _with_text(line, [example] if "words" in example else [], str(example.get("text", "")), width)


def _with_text(line: Text, results: Iterable[Mapping[str, Any]], text: str, width: int) -> Text:
    weights: dict[str, float] = {}
    for each in results:
        line.append(f" {each['label']} {each['probability']:.0%}", COLOURS.get(each["label"], "magenta"))
        weights |= dict(each["words"])
    return Text.assemble(line, "\n   ", highlighted(one_line(text)[:width], weights), "\n")
