"""salience rules: check a file of rules before the workers meet it, and see what it would have fired."""

from pathlib import Path
from typing import Annotated

import typer

from models.runtime import labels_of
from pipeline.commands.output import JsonOption, command, out, plain, settings_with, show_json
from pipeline.rules import load_rules
from pipeline.surge.backtest import backtest as run_backtest
from pipeline.surge.plot import svg
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
    if json:
        show_json({"ok": True, "version": rules.version, "rules": found})
        return
    for each in found:
        out.print(f"{each['kind']:<8}{each['name']}  {each['definition']}")
    out.print(f"{len(found)} rules, version {rules.version}")


@app.command()
@command
def backtest(
    file: Annotated[str, typer.Argument(metavar="RULES", help="YAML file of rules.")],
    counts: Annotated[list[str], typer.Option(help="CSV of timestamp,value; each file is a group of its own.")],
    plot: Annotated[str | None, typer.Option(help="Draw series, baseline and alerts into this .svg file.")] = None,
    json: JsonOption = False,
) -> None:
    """Say what the rules would have fired on plain series of counts, with what was known at each row.

    Of rules of kind volume and absence, window, every, baseline, minimum and sensitivity apply; the others are
    left out.

    Example: salience rules backtest rules.yaml --counts mentions.csv --plot mentions.svg
    """
    if plot is not None and not plot.endswith(".svg"):
        raise UsageError(f"{plot} is no SVG; plots are drawn as SVG only, so give a name that ends in .svg")
    found, panels = run_backtest(load_rules(file).rules, [read_series(path) for path in counts])
    if plot is not None:
        try:
            Path(plot).write_text(svg(panels), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the plot {plot} cannot be written: {error.strerror}") from None
    if json:
        show_json(found)
        return
    for each in found.alerts:
        span = f"{each.start} to {each.end or 'now'}"
        out.print(plain(f"{span}  {each.rule} {each.group}: {each.value:g}, {each.odds}"))
    for group in found.summary.groups:
        line = f"{group.rule} {group.group}: {group.alerts} alerts in {group.weeks:g} weeks"
        out.print(plain(f"{line}, {group.alerts_per_week:g} a week"))
