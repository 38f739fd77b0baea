"""salience model train: from a recipe and a folder of data to a bundle, with a bar to watch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.bundle import Precision
from models.recipe import load_recipe
from pipeline.commands.model import BundleOption, PrecisionOption, check_precision
from pipeline.commands.output import JsonOption, command, err, out, settings_with, show_json
from pipeline.status import INTERRUPTED
from schemas.errors import ConfigError

# Figures of a head that are shown, in this order; each kind of head has some of them.
_SHOWN = ("n", "accuracy", "macro_f1", "ece", "entity_f1", "cosine_to_base")


class _Standing(Protocol):
    """How far a run is (`models.fit.Progress`)."""

    epoch: int
    texts: int
    seconds: float


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(refit)


@command
def train(
    recipe: Annotated[str, typer.Argument(help="TOML file, or the name of a recipe that comes with Salience.")],
    data: Annotated[Path, typer.Option("--data", help="Folder in which the recipe's files lie.")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the new bundle; it must not exist yet.")],
    precision: PrecisionOption = "int8",
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0 for all.")] = 0,
    json: JsonOption = False,
) -> None:
    """Train a bundle; stopped or killed, the same command goes on from its last checkpoint.

    Example: salience model train market-minilm --data data --out runs/mine
    """
    kind = check_precision(precision)
    asked = load_recipe(recipe)
    try:
        from models.train import train as run
        from models.train import use_threads
    except ImportError as error:
        raise ConfigError(f"training needs {error.name}; pip install 'salience[train]'") from None
    use_threads(threads)
    work = to.with_name(f"{to.name}.training")
    err.print(f"training {asked.name}; checkpoint and log are in {work}", style="dim", highlight=False)
    try:
        with _Bar(asked.training.epochs) as bar:
            metrics = run(recipe, data, to, kind, bar.report)
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from the last checkpoint", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    _show(metrics, to, kind, json)


@command
def refit(
    data: Annotated[Path, typer.Option("--data", help="Folder in which the recipe's files lie.")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the new bundle; it must not exist yet.")],
    bundle: BundleOption = None,
    recipe: Annotated[str, typer.Option(help="TOML file or name; the bundle's own recipe when left out.")] = "",
    precision: PrecisionOption = "int8",
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0 for all.")] = 0,
    json: JsonOption = False,
) -> None:
    """Find again all of a bundle but what training found: n-grams, calibration, thresholds, bank, figures, card.

    Example: salience model refit --data data --out runs/mine
    """
    kind = check_precision(precision)
    try:
        from models.refit import refit as run
        from models.train import use_threads
    except ImportError as error:
        raise ConfigError(f"fitting needs {error.name}; pip install 'salience[train]'") from None
    use_threads(threads)
    chosen = settings_with().model.bundle if bundle is None else bundle
    err.print(f"fitting to {to}; this takes minutes on a CPU ...", style="dim", highlight=False)
    _show(run(chosen, data, to, recipe, kind), to, kind, json)


def _show(metrics: Mapping[str, Any], to: Path, kind: Precision, json: bool) -> None:
    heads = {name: _figures(found) for name, found in metrics["heads"].items()}
    if json:
        show_json({"out": str(to), "precision": kind, "training": metrics["training"], "heads": heads})
        return
    out.print(_table(heads))
    out.print(f"{to} holds the bundle in {kind}; its README.md tells more", highlight=False)


class _Bar:
    """A bar for each epoch; without a terminal, a line for each report."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}"),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("reading", total=None, rate="", line="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, line: str, standing: _Standing, batch: int, batches: int) -> None:
        """As `models.fit.Report`: `batch` of `batches` of the epoch in work is done."""
        epoch = f"epoch {min(standing.epoch + 1, self._epochs)} of {self._epochs}"
        rate = f"{standing.texts / standing.seconds:,.0f} texts/s" if standing.seconds else ""
        if line.startswith("validation"):
            epoch = f"epoch {standing.epoch} of {self._epochs}"
            self._progress.console.print(f"{epoch}: {line}", highlight=False)
        elif self._progress.disable:
            err.print(f"{epoch}, batch {batch} of {batches}, {rate}: {line}", highlight=False)
        self._progress.update(self._task, description=epoch, completed=batch, total=batches, rate=rate, line=line)


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a head by what gave them: each precision, and the baseline."""
    return {
        source: {name: figures[name] for name in (*_SHOWN, "interval") if name in figures}
        for source, figures in found.items()
    }


def _table(heads: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("head", "by", *_SHOWN):
        table.add_column(column, justify="left" if column in ("head", "by") else "right")
    for head, sources in heads.items():
        for source, figures in sources.items():
            shown = [figures.get(name) for name in _SHOWN]
            table.add_row(head, source, *("" if value is None else f"{value:g}" for value in shown))
    return table
