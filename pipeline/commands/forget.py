"""salience forget: what is stored of a person goes, and does not come back with a replay of the log."""

from typing import Annotated

import msgspec
import typer

from pipeline.commands.output import JsonOption, command, out, run_async, settings_with, show_json
from pipeline.store import forget as forgetting
from pipeline.store import migrate
from pipeline.times import now
from pipeline.topics import Topics

# Seconds by which a message's way to the broker may outlast the deadline of its chunk.
_MARGIN = 60


def register(app: typer.Typer) -> None:
    app.command()(forget)


@command
def forget(
    subject: Annotated[str, typer.Argument(help="A user or customer, as their events name them.")],
    json: JsonOption = False,
) -> None:
    """Blank text and subject of all events of a person and of the conversations they had; workers go on.

    The rows stay and count. Workers send tombstones for the person's alerts and scored messages. Events from
    before now are stored blank when they come again; what the person does from now on is stored as ever. The input
    topics are not touched. Calling it again finishes what was interrupted.

    Example: salience forget customer-17
    """
    found = run_async(_forget(subject))
    if json:
        show_json(found)
    elif found.events == 0:
        out.print("no event of them is stored; they are remembered: what comes from before now is stored blank")
        if found.dead_letters:
            out.print(f"{found.dead_letters:>12,} dead letters")
    else:
        for name, count in msgspec.structs.asdict(found).items():
            out.print(f"{count:>12,} {name.replace('_', ' ')}")


async def _forget(subject: str) -> forgetting.Forgotten:
    settings = settings_with()
    settle = int((settings.database.outage_deadline + _MARGIN) * 1_000_000)
    async with migrate.opened(settings.database) as (database, _):
        return await forgetting.forget(database, subject, now(), Topics(settings.broker.prefix), settle)
