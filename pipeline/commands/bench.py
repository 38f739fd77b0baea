"""salience bench: how fast this machine takes events all the way."""

from typing import Annotated, Literal

import typer
from rich.table import Table

from pipeline.bench.measure import Plan, Result, measure
from pipeline.commands.output import JsonOption, command, err, out, show_json


@command
def bench(
    context: typer.Context,
    only: Annotated[
        Literal["model", "engine", "heads"] | None,
        typer.Option(help="Measure only this part; model and engine by default."),
    ] = None,
    events: Annotated[int, typer.Option(min=300, help="Events of the engine part.")] = 60_000,
    size: Annotated[int, typer.Option(min=300, help="Texts of the model part, at most.")] = 4096,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Runs of the model part; the median counts.")] = 3,
    texts: Annotated[
        str | None,
        typer.Option(help="File of texts for the model: JSON lines with `text`, or a text a line; .gz too."),
    ] = None,
    bundle: Annotated[str, typer.Option(help="Bundle folder, or `stub`; the packaged bundle by default.")] = "",
    database: Annotated[
        str | None, typer.Option(help="URL of a PostgreSQL database; one of our own by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure texts and events a second, end to end, beside the bare model on the same texts.

    Starts an embedded broker and a PostgreSQL of its own (fsync on); the topic is full before the clock starts,
    texts are distinct and the model's cache is off. With --database, rows stay behind: give an empty one.

    Example: salience bench --only engine --events 20000
    """
    if context.invoked_subcommand is not None:
        return
    plan = Plan(only, events, size, repeats, texts, bundle, database)
    result = measure(plan, lambda line: err.print(line, highlight=False))
    if json:
        show_json(result)
    else:
        _show(result)


def _show(result: Result) -> None:
    if result.heads is not None:
        cost = result.heads
        out.print(
            f"{result.bundle}, {cost.texts:,} texts: encoder {cost.encoder:.2f} s of CPU, with all heads "
            f"{cost.heads:.2f} s: {cost.ratio:.3f} of the encoder alone",
            highlight=False,
        )
        return
    if result.ratio is not None:
        out.print(
            f"{result.bundle}, {result.n['texts']:,} texts, {result.cpus} CPUs: {result.texts_per_s:,.0f} texts/s "
            f"({result.tokens_per_s:,.0f} tokens/s) end to end, {result.bare_texts_per_s:,.0f} bare: "
            f"{result.ratio:.2f} of the bare model",
            highlight=False,
        )
    for name, rate in result.engine.items():
        out.print(f"engine into {name}: {rate:,.0f} events/s", highlight=False)
    columns = {"model": result.stages} if result.ratio is not None else {}
    columns |= result.engine_stages
    table = Table("CPU time an event, µs", *columns, box=None)
    for stage in next(iter(columns.values())):
        figures = [f"{stages[stage]:,.1f}" if stage in stages else "" for stages in columns.values()]
        table.add_row(stage, *figures)
    for position in range(1, len(columns) + 1):
        table.columns[position].justify = "right"
    out.print(table)
