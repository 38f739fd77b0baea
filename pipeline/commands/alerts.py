"""salience alerts: what fired, on what evidence, who was told; acknowledge, resolve, silence."""

import getpass
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from pipeline.commands.alert_lines import deliveries_table, described, history_table
from pipeline.commands.output import (
    JsonOption,
    command,
    err,
    minute,
    on_database,
    out,
    plain,
    run_async,
    settings_with,
    show_json,
)
from pipeline.durations import parse_duration
from pipeline.reach import how_they_do, named, send_test
from pipeline.receivers import Receivers
from pipeline.rules_file import load_rules
from pipeline.store import alert_changes, migrate, silences
from pipeline.store.database import Database
from pipeline.store.rebuild import rebuild
from pipeline.times import now, rfc3339
from pipeline.topics import Topics
from schemas.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Alerts, and who is told of them.")

R = TypeVar("R")

STATES = ("pending", "firing", "acknowledged", "resolved", "fired")

Id = Annotated[str, typer.Argument(metavar="ID", help="Number or name of the alert.")]
Author = Annotated[str | None, typer.Option(help="Who does this; the user of this machine when left out.")]
Note = Annotated[str | None, typer.Option(help="Why, for the history.")]


@app.command("list")
@command
def list_(
    state: Annotated[str | None, typer.Option(help=f"Only those that are {', '.join(STATES)}.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only those of this rule.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those raised in this time, as in 2d.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    json: JsonOption = False,
) -> None:
    """List alerts, the newest first.

    Example: salience alerts list --state firing --since 2d
    """
    if state is not None and state not in STATES:
        raise UsageError(f"{state!r} is no state; an alert is {', '.join(STATES)}")
    after = None if since is None else now() - parse_duration(since)
    found = _run(lambda database: alert_changes.list_alerts(database, state, rule, after, limit))
    if json:
        show_json({"alerts": found})
        return
    table = Table("id", "state", "severity", "rule", "group", "start", "end")
    for row in found:
        times = (minute(row["start"]), minute(row["end"]))
        table.add_row(*map(plain, (row["id"], row["state"], row["severity"], row["rule"], row["group"], *times)))
    out.print(table)


@app.command()
@command
def show(id: Id, json: JsonOption = False) -> None:
    """Show one alert: its evidence, every change, and what was said to whom.

    Example: salience alerts show 12
    """
    row, changes, told = _run(lambda database: _read(database, id))
    if json:
        found = alert_changes.shown(row)
        about = {"definition": row.definition, "bundle": row.bundle, "evidence": row.evidence}
        show_json({**found, **about, "history": changes, "deliveries": told})
        return
    for line in described(row):
        out.print(line)
    out.print(history_table(changes))
    out.print(deliveries_table(told))


@app.command("rebuild")
@command
def rebuild_(id: Id, json: JsonOption = False) -> None:
    """Put a count alert's evidence together again from the stored events, and say what differs.

    What differs was taken out since: a person was forgotten, or events were pruned.

    Example: salience alerts rebuild 12
    """

    async def both(database: Database) -> tuple[int, dict[str, Any], dict[str, Any]]:
        tick = (await migrate.check(database)).tick
        row = await alert_changes.find(database, id)
        return row.id, row.evidence, await rebuild(database, tick, row.id)

    number, before, again = _run(both)
    differs = sorted(name for name in {*before, *again} if before.get(name) != again.get(name))
    if json:
        show_json({"id": number, "same": not differs, "differs": differs, "evidence": again})
    else:
        what = f"differs in {', '.join(differs)}" if differs else "is the same, field for field"
        out.print(plain(f"the evidence of alert {number} {what}"))


async def _read(database: Database, which: str) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    row = await alert_changes.find(database, which)
    return row, await alert_changes.history(database, row.id), await alert_changes.deliveries(database, row.id)


@app.command()
@command
def ack(id: Id, author: Author = None, note: Note = None, json: JsonOption = False) -> None:
    """Acknowledge an alert that fires: somebody looks after it.

    Example: salience alerts ack 12 --author ann --note "known outage of the feed"
    """
    _change(id, "acknowledged", author, note, json)


@app.command()
@command
def resolve(id: Id, author: Author = None, note: Note = None, json: JsonOption = False) -> None:
    """End an alert by hand; when its rule may fire again does not depend on this.

    Example: salience alerts resolve 12 --note "false alarm"
    """
    _change(id, "resolved", author, note, json)


def _change(which: str, state: str, author: str | None, note: str | None, json: bool) -> None:
    topic = Topics(settings_with().broker.prefix).alerts
    who = _author(author)
    changed = _run(lambda database: alert_changes.set_state(database, which, state, now(), who, note, topic))
    if json:
        show_json({"id": changed.id, "state": changed.state, "version": changed.version, "author": who})
    else:
        out.print(plain(f"alert {changed.id} is {state}, by {who}"))


@app.command()
@command
def silence(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Silence the rule and group of this alert.")
    ] = None,
    for_: Annotated[str, typer.Option("--for", help="How long, as in 2h.")] = "",
    comment: Annotated[str, typer.Option(help="Why, for those who look later.")] = "",
    rule: Annotated[str | None, typer.Option(help="Alerts of this rule.")] = None,
    group: Annotated[str | None, typer.Option(help="Alerts of this group.")] = None,
    author: Author = None,
    json: JsonOption = False,
) -> None:
    """Tell no receiver of some alerts for a while; what still fires afterwards is told then.

    Example: salience alerts silence --rule acme-in-trouble --for 2h --comment "results day"
    """
    if not for_:
        raise UsageError("a silence has an end; give --for, as in --for 2h")
    if not comment.strip():
        raise UsageError("a silence says why; give --comment")
    if id is not None and (rule is not None or group is not None):
        raise UsageError("give the number of an alert, or --rule and --group, not both")
    length, who = parse_duration(for_), _author(author)

    async def make(database: Database) -> tuple[dict[str, Any], bool]:
        about = (rule, group) if id is None else await _rule_and_group(database, id)
        moment = now()
        added = await silences.add_silence(database, *about, moment, moment + length, who, comment)
        return added, rule is None or await silences.is_rule(database, rule)

    made, known = _run(make)
    if not known:
        err.print(plain(f"no rule in force is called {rule}; the silence holds for one that comes to be"))
    if json:
        show_json(_silence_shown(made))
    else:
        out.print(plain(f"silence {made['id']}: {_about(made)} until {rfc3339(made['ends_at'])}"))


async def _rule_and_group(database: Database, which: str) -> tuple[str, str]:
    alert = await alert_changes.find(database, which)
    return alert.rule, alert.group


@app.command("silences")
@command
def silences_(
    end: Annotated[int | None, typer.Option(help="End the silence of this number now.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    json: JsonOption = False,
) -> None:
    """List the silences that last, or end one.

    Example: salience alerts silences --end 3
    """
    if end is not None:
        _run(lambda database: silences.end_silence(database, end, now()))
        if json:
            show_json({"ended": end})
        else:
            out.print(f"silence {end} is over")
        return
    found = _run(lambda database: silences.list_silences(database, now(), over=all_))
    if json:
        show_json({"silences": list(map(_silence_shown, found))})
        return
    table = Table("id", "of", "until", "author", "comment")
    for each in found:
        until = minute(rfc3339(each["ends_at"]))
        table.add_row(*map(plain, (each["id"], _about(each), until, each["author"], each["comment"])))
    out.print(table)


@app.command("receivers")
@command
def receivers_(json: JsonOption = False) -> None:
    """List the receivers: what waits for each, when it was last told, and what went wrong.

    Example: salience alerts receivers
    """
    known = _receivers()
    found = _run(lambda database: how_they_do(database, known))
    if json:
        show_json({"receivers": found})
        return
    table = Table("name", "address", "waiting", "told", "failures", "error")
    for each in found:
        address = each["address"] or "not in the rules file here"
        cells = (
            each["name"],
            address,
            each["waiting"],
            minute(each["told"]),
            each["failures"],
            each["error"] or "",
        )
        table.add_row(*map(plain, cells))
    out.print(table)


@app.command("test-receiver")
@command
def test_receiver(
    name: Annotated[str, typer.Argument(help="Name of the receiver in the rules file.")], json: JsonOption = False
) -> None:
    """Send a test notification to one receiver.

    Exit status 1 when it was not taken.

    Example: salience alerts test-receiver desk
    """
    receiver = named(name, _receivers())
    run_async(send_test(name, receiver, now()))
    if json:
        show_json({"receiver": name, "address": receiver.shown, "told": True})
    else:
        out.print(plain(f"{name} ({receiver.shown}) was told"))


def _receivers() -> Receivers:
    path = settings_with().rules.file
    if not path:
        raise UsageError("no rules file is set, and receivers stand there; set SALIENCE_RULES__FILE")
    return load_rules(path).receivers


def _author(given: str | None) -> str:
    if given is not None:
        if not given.strip():
            raise UsageError("--author is empty; give a name")
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container's user may have no name.
        raise UsageError("this machine's user has no name; give --author") from None


def _silence_shown(each: dict[str, Any]) -> dict[str, Any]:
    kept = {name: each[name] for name in ("id", "rule", "group", "author", "comment")}
    return kept | {"starts": rfc3339(each["starts_at"]), "ends": rfc3339(each["ends_at"])}


def _about(each: dict[str, Any]) -> str:
    named = [f"{name} {each[name] or 'without a group'}" for name in ("rule", "group") if each[name] is not None]
    return ", ".join(named)


def _run(job: Callable[[Database], Awaitable[R]]) -> R:
    return run_async(on_database(job))
