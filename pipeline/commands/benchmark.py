"""salience model benchmark: recipes on public data sets, beside the figures that others published."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.commands.output import JsonOption, command, err, out, show_json
from schemas.errors import ConfigError, UsageError

METRICS = ("accuracy", "macro_f1", "weighted_f1", "entity_f1", "auroc_none")


@command
def benchmark(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Benchmarks to run where no result lies in --work: names, or files of recipes (.toml) with a "
            "section [benchmark]; `all` for all that come along."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the public data sets.")] = Path("data"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints and results.")] = Path("runs/benchmarks"),
    json: JsonOption = False,
) -> None:
    """Train and test recipes on public data, and print one table with published figures beside ours.

    What was measured before is taken from --work; what was not is said to be not measured. A run that was
    interrupted goes on from its checkpoint.

    Example: salience model benchmark fin-phrasebank digits --data /data
    """
    try:
        from models import benchmark as measured
    except ImportError as error:
        raise ConfigError(f"benchmarks need {error.name}; pip install 'salience[train]'") from None
    known = measured.benchmarks()
    chosen = known if names == ["all"] else list(names or [])
    own = [name for name in chosen if name.endswith(".toml")]
    unknown = [name for name in chosen if name not in (*known, *own)]
    if unknown:
        raise UsageError(
            f"there is no benchmark {unknown[0]}; there are {', '.join(known)}, and a recipe file ends with .toml"
        )

    def report(line: str, *_: Any) -> None:
        err.print(line, style="dim", highlight=False)

    for name in chosen:
        err.print(f"{name} ...", style="bold")
        measured.run(name, data, work, report)
    rows = [measured.stored(name, work) for name in (*known, *dict.fromkeys(own))]
    if json:
        show_json({"benchmarks": rows})
        return
    out.print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("benchmark", "n", "metric", "Salience", "published", box=None, pad_edge=False)
    for row in rows:
        for number, metric in enumerate(row["metrics"]):
            published = [
                f"{each[metric]:.3f} {each['name']}" for each in row["published"] if each.get(metric) is not None
            ]
            title, count = (_title(row), f"{row['n']:,}" if row["n"] else "") if not number else ("", "")
            table.add_row(title, count, metric, _figure(row["figures"].get(metric)), "\n".join(published))
    return table


def _title(row: dict[str, Any]) -> str:
    known = row["known_before"]
    return f"{row['title']} ({known:,} texts had made the bundle it began with)" if known else row["title"]


def _figure(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "not measured"
    if "deviation" in figure:
        return f"{figure['mean']:.3f} ±{figure['deviation']:.3f} ({len(figure['runs'])} runs)"
    low, high = figure.get("interval", (None, None))
    return f"{figure['mean']:.3f}" + (f" ({low:.3f}-{high:.3f})" if low is not None else "")
