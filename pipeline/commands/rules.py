"""salience rules: check a file of rules before the workers meet it, and see what it would have fired."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from models.runtime import labels_of
from pipeline.commands.options import MapOption, SetOption, StartOption, StepOption, StreamOption
from pipeline.commands.output import JsonOption, command, err, out, plain, run_async, settings_with, show_json
from pipeline.files import check_stream, fields, read_lines
from pipeline.rehearse import rehearse_database, rehearse_file
from pipeline.rules import AbsenceRule, AnyRule, Labels, VolumeRule
from pipeline.rules_file import load_rules
from pipeline.surge.backtest import Backtest
from pipeline.surge.backtest import backtest as run_backtest
from pipeline.surge.plot import Panel, svg
from pipeline.surge.series import read_series
from schemas.errors import UsageError
from schemas.labels import STREAMS

app = typer.Typer(no_args_is_help=True, help="Rules that raise alerts.")


@app.command()
@command
def check(file: Annotated[str, typer.Argument(help="YAML file of rules.")], json: JsonOption = False) -> None:
    """Check a rules file: line, field and what is allowed, heads and labels of the bundle included.

    Example: salience rules check rules.yaml
    """
    bundle = settings_with().model.bundle
    rules = load_rules(file, {stream: labels_of(bundle, stream) for stream in STREAMS})
    found = [{"name": rule.name, "kind": rule.kind, "definition": rule.definition} for rule in rules.rules]
    told = [{"name": name, "kind": each.kind, "address": each.shown} for name, each in rules.receivers.items()]
    if json:
        show_json({"ok": True, "version": rules.version, "rules": found, "receivers": told})
        return
    for each in found:
        out.print(f"{each['kind']:<8}{each['name']}  {each['definition']}")
    for each in told:
        out.print(plain(f"{each['kind']:<13}{each['name']}  {each['address']}"))
    receivers = f", {len(told)} receivers" if told else ""
    out.print(f"{len(found)} rules{receivers}, version {rules.version}")


@app.command()
@command
def backtest(
    file: Annotated[str, typer.Argument(metavar="RULES", help="YAML file of rules.")],
    counts: Annotated[
        list[str], typer.Option(help="CSV of timestamp,value; each file is a group of its own.")
    ] = [],  # noqa: B006 - typer's way
    database: Annotated[
        bool, typer.Option("--database", help="The stored events that count for live rules.")
    ] = False,
    run: Annotated[str | None, typer.Option(help="With --database: the events of this back-fill instead.")] = None,
    always: Annotated[
        bool, typer.Option("--always", help="With --database: as if in force from the first event on.")
    ] = False,
    events: Annotated[str | None, typer.Option("--input", help="Events: JSONL or CSV, plain or .gz.")] = None,
    stream: StreamOption = "news",
    mapping: MapOption = [],  # noqa: B006
    constants: SetOption = [],  # noqa: B006
    start: StartOption = None,
    step: StepOption = None,
    plot: Annotated[str | None, typer.Option(help="Draw series, baseline and alerts into this .svg file.")] = None,
    json: JsonOption = False,
) -> None:
    """Say what the rules would have fired, with what was known at each moment.

    On stored events it is what live decisions gave, alert for alert: a rule that is in force decides from the tick
    at which it came into force (--always: from the first event on), and before it what its name meant then. The
    events of a file are first scored by the bundle of the settings. On plain series of counts only window, every,
    baseline, minimum, sensitivity, hold and rearm of the rules of kind volume and absence apply; the others are
    left out. Rows of one time are added up, and what is missing counts 0.

    Example: salience rules backtest rules.yaml --input archive.jsonl.gz --plot alerts.svg
    """
    _check_choice([bool(counts), database, events is not None], run, always, plot)
    if counts:
        asked = load_rules(file, receivers=False).rules
        _check_groups(counts)
        found, panels = run_backtest(asked, [read_series(path) for path in counts])
        _name_left_out(asked)
    else:
        settings = settings_with()
        labels: dict[str, Labels] = {name: labels_of(settings.model.bundle, name) for name in STREAMS}
        rules = load_rules(file, labels, receivers=False)
        if events is None:
            found, panels = run_async(rehearse_database(settings, rules, run, always, plot is not None))
        else:
            lines = read_lines(events, check_stream(stream), fields(mapping, constants, start, step))
            found, panels = run_async(rehearse_file(settings, rules, lines, stream, events, plot is not None))
    _write(plot, panels)
    if json:
        show_json(found)
    else:
        _show(found)


def _check_choice(given: Sequence[bool], run: str | None, always: bool, plot: str | None) -> None:
    if sum(given) != 1:
        raise UsageError("give one of --database, --input FILE and --counts FILE.csv: on what the rules are tried")
    if run is not None and not given[1]:
        raise UsageError("--run names a back-fill in the database; give --database with it")
    if always and (run is not None or not given[1]):
        raise UsageError(
            "--always is for --database without --run; elsewhere rules are in force from the beginning"
        )
    if plot is not None and not plot.endswith(".svg"):
        raise UsageError(f"{plot} is no SVG; plots are drawn as SVG only, so give a name that ends in .svg")


def _check_groups(counts: Sequence[str]) -> None:
    """A series is told by the name of its file."""
    name, often = Counter(Path(path).stem for path in counts).most_common(1)[0]
    if often > 1:
        raise UsageError(f"{often} series are called {name}; give each file a name of its own")


def _name_left_out(rules: Sequence[AnyRule]) -> None:
    """A rule that is missing in the result must not look like one that did not fire."""
    others = [f"{rule.name} ({rule.kind})" for rule in rules if not isinstance(rule, VolumeRule | AbsenceRule)]
    if others:
        err.print(plain(f"left out, for a plain series has no texts: {', '.join(others)}"))


def _write(plot: str | None, panels: Sequence[Panel]) -> None:
    if plot is None:
        return
    try:
        Path(plot).write_text(svg(panels), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the plot {plot} cannot be written: {error.strerror}") from None


def _show(found: Backtest) -> None:
    for each in found.alerts:
        span = f"{each.start} to {each.end or 'now'}"
        out.print(plain(f"{span}  {each.rule} {each.group}: {each.value:g}, {each.odds}"))
    for group in found.summary.groups:
        line = f"{group.rule} {group.group}: {group.alerts} alerts in {group.weeks:g} weeks"
        out.print(plain(f"{line}, {group.alerts_per_week:g} a week"))
    if not found.alerts:
        out.print("no alert")
