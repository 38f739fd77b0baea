"""salience bench decide: how long it takes from the closing of a tick to the alert rows."""

from typing import Annotated

import typer

from pipeline.bench.decide import DecideResult, measure_decisions
from pipeline.commands.output import JsonOption, command, err, out, show_json


@command
def decide(
    groups: Annotated[int, typer.Option(min=10, help="Active groups of the rule.")] = 1_000,
    rows: Annotated[int, typer.Option(min=10_000, help="Counter rows of the long history.")] = 22_000_000,
    decisions: Annotated[int, typer.Option(min=5, help="Decisions that are timed.")] = 120,
    json: JsonOption = False,
) -> None:
    """Time decisions on many groups, with a history stored and with half of it, on a PostgreSQL of its own.

    A baseline is made of 14 days, of which 1,000 groups have ten million counter rows here. With fewer rows than
    twice that, the shorter history has less of them to read.

    Each minute brings events to half of the groups, and a surge to some; timed is from the closing of the minute's
    last tick to the commit of what was decided.

    Example: salience bench decide --groups 1000
    """
    result = measure_decisions(groups, rows, decisions, lambda line: err.print(line, highlight=False))
    if json:
        show_json(result)
    else:
        _show(result)


def _show(result: DecideResult) -> None:
    for each in (result.short, result.long):
        out.print(
            f"{each.rows:,} counter rows: {each.p50_s:.3f} s (median), {each.p99_s:.3f} s (99 of 100), "
            f"{each.max_s:.3f} s at most; {each.alerts} alerts in {result.decisions} decisions",
            highlight=False,
        )
    out.print(f"the long history costs {result.ratio:.2f} of the short one", highlight=False)
