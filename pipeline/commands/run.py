"""salience worker, demo and bench: what runs for a while."""

from typing import Annotated

import typer

from pipeline.commands.bench import bench
from pipeline.commands.bench_decide import decide
from pipeline.commands.bench_surge import surge
from pipeline.commands.demo import demo
from pipeline.commands.output import JsonOption, command, settings_with, show_json
from pipeline.logs import configure
from pipeline.supervise import supervise


def register(app: typer.Typer) -> None:
    app.command()(demo)
    app.command()(worker)
    group = typer.Typer()
    group.callback(invoke_without_command=True)(bench)
    group.command()(surge)
    group.command()(decide)
    app.add_typer(group, name="bench")


@command
def worker(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes in the consumer group.")] = 1,
    index: Annotated[int, typer.Option(hidden=True)] = 0,
    json: JsonOption = False,
) -> None:
    """Read the topics, score, store and react, until SIGTERM or Ctrl-C; what is in work is finished first.

    Example: salience worker --workers 2
    """
    settings = settings_with()
    configure(settings.log)

    def tell(status: int) -> None:
        if json:
            show_json({"status": status})

    if workers > 1:
        status = supervise(settings, workers)
        tell(status)
        raise typer.Exit(status)
    # Faust takes half a second to import, which no other command should pay for.
    from pipeline.worker import run

    run(settings, index, tell)
