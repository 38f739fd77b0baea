"""salience dlq: what could not be used, and another try for it."""

from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from pipeline import replay as replaying
from pipeline.commands.output import (
    JsonOption,
    command,
    on_database,
    out,
    plain,
    run_async,
    settings_with,
    show_json,
)
from pipeline.status import FAILED
from pipeline.store import letters
from pipeline.store.database import Database
from schemas.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Dead letters: events that could not be used, bytes untouched.")

R = TypeVar("R")

Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
OfStream = Annotated[str | None, typer.Option("--stream", help="Only those of this stream.")]


@app.command("list")
@command
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    reason: Reason = None,
    stream: OfStream = None,
    json: JsonOption = False,
) -> None:
    """List the newest dead letters.

    Example: salience dlq list --reason undecodable
    """
    rows, reasons = run_async(on_database(lambda database: _list(database, limit, reason, stream)))
    if json:
        show_json({"dead_letters": [letters.short(row) for row in rows], "reasons": reasons})
        return
    table = Table("id", "stream", "reason", "offset", "message", "replayed")
    for row in rows:
        place = f"{row['topic']}/{row['partition']}/{row['offset']}"
        replayed = "yes" if row["replayed_at"] else ""
        table.add_row(*map(plain, (row["id"], row["stream"], row["reason"], place, row["message"], replayed)))
    out.print(table)


async def _list(
    database: Database, limit: int, reason: str | None, stream: str | None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    rows = await letters.list_letters(database, stream=stream, reason=reason, limit=limit)
    return rows, await letters.count_by_reason(database)


@app.command()
@command
def show(
    id: Annotated[int, typer.Argument(help="Number of the dead letter, as `dlq list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Show one dead letter with its bytes.

    Example: salience dlq show 3
    """
    rows = run_async(on_database(lambda database: letters.read_letters(database, [id])))
    found = letters.full(rows[0])
    if json:
        show_json(found)
        return
    for name, value in found.items():
        out.print(Text(f"{name:<12}") + plain(value))


@app.command()
@command
def replay(
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers of dead letters.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    reason: Reason = None,
    stream: OfStream = None,
    to_topic: Annotated[bool, typer.Option("--to-topic", help="Back to the topic, for the workers.")] = False,
    json: JsonOption = False,
) -> None:
    """Try dead letters again, after what stopped them was mended: through the flow, here and now.

    Exit status 1 when one of them is dead again.

    Example: salience dlq replay --all --reason undecodable
    """
    if not ids and not all_:
        raise UsageError("name dead letters by their numbers, or say --all (with --reason or --stream to choose)")
    done = run_async(_replay(ids or [], reason, stream, to_topic))
    if json:
        show_json(done)
    elif to_topic:
        out.print(f"{done.sent} sent to their topics again")
    else:
        out.print(
            f"{done.sent} tried: {done.stored} stored, {done.repeated} were there already, {done.dead} dead again"
        )
    if done.dead:
        raise typer.Exit(FAILED)


async def _replay(ids: list[int], reason: str | None, stream: str | None, to_topic: bool) -> replaying.Replayed:
    async def choose(database: Database) -> list[dict[str, Any]]:
        if ids:
            return await letters.read_letters(database, ids)
        rows = await letters.list_letters(database, stream=stream, reason=reason, limit=None, waiting=True)
        return rows[::-1]

    rows = await on_database(choose)
    job = replaying.to_topic if to_topic else replaying.through_flow
    return await job(settings_with(), rows) if rows else replaying.Replayed()
