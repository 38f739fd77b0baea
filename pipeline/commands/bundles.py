"""salience model promote, rollback and history: which bundle scores, and from when on."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from pipeline import bundles
from pipeline.bundles import Decision, History
from pipeline.commands.compare import compare
from pipeline.commands.output import JsonOption, command, out, run_async, settings_with, show_json
from pipeline.settings import Settings
from pipeline.store import migrate
from pipeline.store.bundles import Activation, Dependent
from pipeline.store.database import Database
from pipeline.times import now, rfc3339

R = TypeVar("R")

_SETTINGS = "what SALIENCE_MODEL__BUNDLE names"

AtOption = Annotated[
    str | None,
    typer.Option("--at", help="From when on: +30s, a tick's number, or a time; a minute from now when left out."),
]


def register(app: typer.Typer) -> None:
    app.command()(compare)
    app.command()(promote)
    app.command()(rollback)
    app.command()(history)


@command
def promote(
    bundle: Annotated[
        str, typer.Argument(help="Folder, `stub`, `packaged`, or name or identity of one promoted before.")
    ],
    at: AtOption = None,
    json: JsonOption = False,
) -> None:
    """Let another bundle score, in all workers from the same tick on; says what must be rebuilt for it.

    Workers load it from the same path, so it must be there on each of their machines.

    Example: salience model promote runs/market-2 --at +5m
    """

    async def decide(database: Database, settings: Settings, tick: int) -> Decision:
        return await bundles.promote(database, settings, tick, bundle, at, now())

    _show(*_asked(decide), json)


@command
def rollback(
    bundle: Annotated[
        str | None,
        typer.Argument(help="Name or identity of one that was active; the one before if left out."),
    ] = None,
    at: AtOption = None,
    json: JsonOption = False,
) -> None:
    """Go back to the bundle before, or to the named one, in all workers from the same tick on.

    Example: salience model rollback --at +30s
    """

    async def decide(database: Database, settings: Settings, tick: int) -> Decision:
        return await bundles.rollback(database, settings, tick, bundle, at, now())

    _show(*_asked(decide), json)


@command
def history(json: JsonOption = False) -> None:
    """List what was promoted and rolled back, and what must be rebuilt for the bundle that is active.

    Example: salience model history --json
    """

    async def read(database: Database, settings: Settings, tick: int) -> History:
        return await bundles.history(database, settings, tick, now())

    found, tick = _asked(read)
    if json:
        rows = [_row(made, tick) | {"state": state} for made, state in found.made]
        show_json({"active": found.active, "activations": rows, "stale": _stale(found.stale)})
        return
    table = Table("bundle", "by", "from", "tick", "state")
    for made, state in reversed(found.made):
        cells = [made.identity or _SETTINGS, made.made_by, rfc3339(made.active_tick * tick)]
        table.add_row(*map(Text, (*cells, str(made.active_tick), state)))
    if found.made:
        out.print(table)
    out.print(f"{found.active} is active")
    _show_stale(found.stale)


def _asked(job: Callable[[Database, Settings, int], Awaitable[R]]) -> tuple[R, int]:
    """Do a job with the database of the settings; returns the width of a tick, microseconds, beside its result."""

    async def run() -> tuple[R, int]:
        settings = settings_with()
        async with migrate.opened(settings.database) as (database, instance):
            return await job(database, settings, instance.tick), instance.tick

    return run_async(run())


def _show(decision: Decision, tick: int, json: bool) -> None:
    made = decision.made
    if json:
        show_json(_row(made, tick) | {"before": decision.before, "stale": _stale(decision.stale)})
        return
    moment = rfc3339(made.active_tick * tick)
    out.print(f"{made.identity or _SETTINGS} scores from {moment} on (tick {made.active_tick})")
    out.print(f"until then: {decision.before or _SETTINGS}")
    _show_stale(decision.stale)


def _show_stale(stale: list[Dependent]) -> None:
    for each in stale:
        out.print(f"must be rebuilt: {each.kind} {each.name}, built with {each.embedding}", style="yellow")


def _row(made: Activation, tick: int) -> dict[str, Any]:
    return {
        "sequence": made.sequence,
        "bundle": made.identity,
        "path": None if made.bundle is None else made.bundle.path,
        "made_by": made.made_by,
        "made": rfc3339(made.made_at),
        "active_tick": made.active_tick,
        "active_from": rfc3339(made.active_tick * tick),
    }


def _stale(stale: list[Dependent]) -> list[dict[str, Any]]:
    return [
        {"kind": each.kind, "name": each.name, "embedding": each.embedding, "built": rfc3339(each.built_at)}
        for each in stale
    ]
