"""salience runs: back-fills, and which of them count for live decisions."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.output import (
    JsonOption,
    command,
    minute,
    on_database,
    out,
    run_async,
    show_json,
)
from pipeline.retry import through_outage
from pipeline.store import runs
from pipeline.store.database import Database
from pipeline.times import now, rfc3339

# Seconds for which a busy or absent database is asked again.
_PATIENCE = 60.0

app = typer.Typer(no_args_is_help=True, help="Back-fills that were run.")


@app.command("list")
@command
def list_(json: JsonOption = False) -> None:
    """List the runs, the newest first.

    Example: salience runs list --json
    """
    found = run_async(on_database(_list))
    if json:
        show_json({"runs": found})
        return
    table = Table("run", "stream", "file", "events", "begun", "ended", "attached")
    for row in found:
        cells = [row["run"], row["stream"], row["file"], f"{row['events']:,}"]
        cells += [minute(row["started"]), minute(row["finished"])]
        tick = row["attached_tick"]
        table.add_row(*map(Text, (*cells, "" if tick is None else f"tick {tick}")))
    out.print(table)


@app.command()
@command
def attach(
    run: Annotated[str, typer.Argument(help="Name of the run, as `salience runs list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Let the events of a finished back-fill count for live decisions, from the next live tick on.

    Example: salience runs attach headlines.csv-1a2b3c4d
    """
    tick = run_async(on_database(lambda database: _attach(database, run)))
    if json:
        show_json({"run": run, "attached_tick": tick})
    else:
        out.print(f"the events of {run} count from live tick {tick} on")


async def _list(database: Database) -> list[dict[str, Any]]:
    return [_shown(row) for row in await runs.list_runs(database)]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("run", "stream", "file", "notify", "events", "attached_tick")}
    finished = row["finished_at"]
    return kept | {
        "started": rfc3339(row["started_at"]),
        "finished": None if finished is None else rfc3339(finished),
    }


async def _attach(database: Database, run: str) -> int:
    return await through_outage(lambda: runs.attach(database, run, now()), _PATIENCE)
