"""salience db: the schema and the age of what is kept."""

from typing import Annotated

import typer

from pipeline.commands.output import JsonOption, command, on_database, out, run_async, settings_with, show_json
from pipeline.durations import parse_duration
from pipeline.store import migrate, retention
from pipeline.store.database import Database
from pipeline.times import now

app = typer.Typer(no_args_is_help=True, help="Schema and retention of the database.")


@app.command()
@command
def upgrade(json: JsonOption = False) -> None:
    """Bring the database to the schema of this release; safe to run twice, and from two places at once.

    Example: SALIENCE_DATABASE__URL=postgresql://salience@localhost/salience salience db upgrade
    """
    before, after = run_async(_upgrade())
    if json:
        show_json({"before": before, "after": after})
    elif before == after:
        out.print(f"the database is at schema version {after} already")
    else:
        out.print(f"the database went from schema version {before or 'none'} to {after}")


async def _upgrade() -> tuple[str | None, str]:
    database = Database(settings_with().database)
    try:
        return await migrate.upgrade(database, now())
    finally:
        await database.close()


@app.command()
@command
def prune(
    older_than: Annotated[str, typer.Option(help="Delete events older than this: 90d, 12h, 30m.")],
    forget_seen: Annotated[
        str, typer.Option(help="Forget the keys of pruned events that are older than this.")
    ] = "400d",
    json: JsonOption = False,
) -> None:
    """Delete old events with their scores, sent messages and dead letters; workers go on meanwhile.

    The keys of deleted events are remembered, so that a replay of the log does not bring them back. What is
    older than --forget-seen is stored again when it comes again, marked as too old, and nothing reacts to it.
    What rules in use look back on is kept: a shorter --older-than is refused.

    Example: salience db prune --older-than 90d
    """
    ages = parse_duration(older_than), parse_duration(forget_seen)
    result = run_async(on_database(lambda database: retention.prune(database, now(), *ages)))
    if json:
        show_json(result)
    else:
        for name, count in result.items():
            out.print(f"{count:>12,} {name}")
