"""salience bench surge: how good the surge rules are, on labelled series or on streams made for it."""

from typing import Annotated

import typer
from rich.table import Table

from pipeline.bench.surge import SurgeResult, measure_surges
from pipeline.bench.synthetic import STEP, Calm, Found, calm, surges
from pipeline.commands.output import JsonOption, command, err, out, show_json
from pipeline.durations import parse_duration
from pipeline.surge.baseline import DAY
from pipeline.surge.volume import Plan
from schemas.errors import UsageError

_WINDOW = "45m"
_KINDS = ("poisson", "negative binomial")
_RATES = (30.0, 300.0)


@command
def surge(
    nab: Annotated[
        str | None, typer.Option(help="Folder with a CSV (timestamp,value) for each topic, and windows.json.")
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Streams of which everything is known, made here.")
    ] = False,
    weeks: Annotated[int, typer.Option(min=1, help="Weeks of each synthetic stream without a surge.")] = 100,
    many: Annotated[int, typer.Option("--surges", min=1, help="Surges in each of the others.")] = 200,
    window: Annotated[
        str | None, typer.Option(help="With --synthetic: what the rule counts; 45m when left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Score the surge rules at their default sensitivity, one false alert a week.

    With --nab by the published rules of the Numenta Anomaly Benchmark (standard profile), beside "the last hour
    against the past twelve" and an EWMA z-score. With --synthetic: how many alerts come where none should, and how
    many surges of three times the usual for an hour are found, how soon; some minutes of CPU. A shorter window
    finds them sooner and misses more of them.

    Example: salience bench surge --nab nab_tweets
    """
    if (nab is None) is not synthetic:
        raise UsageError("give either --nab DIR or --synthetic")
    if nab is not None and window is not None:
        raise UsageError("--window is for --synthetic; the benchmark's rule has the default window")
    if nab is not None:
        scored = measure_surges(nab)
        show_json(scored) if json else _show_scored(scored)
        return
    plan = Plan(window=_window(window or _WINDOW), every=STEP)
    calms: list[Calm] = []
    found: list[Found] = []
    for kind in _KINDS:
        for rate in _RATES:
            err.print(f"{kind}, {rate:g} an hour", highlight=False)
            calms.append(calm(kind, rate, weeks, plan=plan))
            found.append(surges(kind, rate, many, plan=plan))
    show_json({"calm": calms, "surges": found}) if json else _show_synthetic(calms, found)


def _window(text: str) -> float:
    """Seconds of a window that a rule which is looked at every minute can have."""
    seconds = parse_duration(text) / 1_000_000
    if seconds < STEP or seconds % STEP or seconds > DAY:
        raise UsageError(f"--window {text}: give whole minutes, from 1m to 1d")
    return seconds


def _show_scored(result: SurgeResult) -> None:
    out.print(
        f"score {result.score:.1f} (the last hour against the past twelve {result.commercial_score:.1f}, "
        f"EWMA {result.ewma_score:.1f}); {result.windows_hit} of {result.windows} windows hit, "
        f"{result.false_per_topic_week:.2f} false alerts a topic and week",
        highlight=False,
    )
    table = Table("topic", "score", "windows hit", "false a week", box=None)
    for each in result.per_topic:
        hit = f"{each.windows_hit} of {each.windows}"
        table.add_row(each.topic, f"{each.score:.1f}", hit, f"{each.false_per_week:.2f}")
    out.print(table)


def _show_synthetic(calms: list[Calm], found: list[Found]) -> None:
    table = Table(
        "stream", "an hour", "false alerts", "expected", "surges found", "minutes to the alert", box=None
    )
    for quiet, each in zip(calms, found, strict=True):
        hit = f"{each.found} of {each.surges}"
        table.add_row(
            quiet.kind, f"{quiet.rate:g}", str(quiet.alerts), f"{quiet.expected:g}", hit, f"{each.delay:.0f}"
        )
    out.print(table)
