"""salience runs: back-fills, and which of them count for live decisions."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.output import JsonOption, command, out, run_async, settings_with, show_json
from pipeline.retry import through_outage
from pipeline.store import migrate, runs
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
    found = run_async(_list())
    if json:
        show_json({"runs": found})
        return
    table = Table("run", "stream", "file", "events", "begun", "ended", "attached")
    for row in found:
        cells = [row["run"], row["stream"], row["file"], f"{row['events']:,}"]
        cells += [_minute(row["started"]), _minute(row["finished"] or "")]
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
    tick = run_async(_attach(run))
    if json:
        show_json({"run": run, "attached_tick": tick})
    else:
        out.print(f"the events of {run} count from live tick {tick} on")


def _minute(time: str) -> str:
    # A line of a terminal has no room for more; --json has it all.
    return time[:16].replace("T", " ")


async def _list() -> list[dict[str, Any]]:
    database = Database(settings_with().database)
    try:
        await migrate.check(database)
        return [_shown(row) for row in await runs.list_runs(database)]
    finally:
        await database.close()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("run", "stream", "file", "notify", "events", "attached_tick")}
    finished = row["finished_at"]
    return kept | {
        "started": rfc3339(row["started_at"]),
        "finished": None if finished is None else rfc3339(finished),
    }


async def _attach(run: str) -> int:
    database = Database(settings_with().database)
    try:
        await migrate.check(database)
        return await through_outage(lambda: runs.attach(database, run, now()), _PATIENCE)
    finally:
        await database.close()
