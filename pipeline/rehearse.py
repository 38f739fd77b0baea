"""What rules would have fired on stored events: the live way over a copy of them, at a database of its own.

A rule that was live is counted from where it was counted then, and decides from the tick at which it came into
force; before that, whatever its name stood for decides. So it gives what live gave, alert for alert. A rule that
never was live decides from the first tick on, and so does any rule if it is asked for.
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.backfill import backfill
from pipeline.rehearse_plot import panels
from pipeline.rules import AbsenceRule, CountRule, RuleSet, ShareRule, VolumeRule
from pipeline.settings import DatabaseSettings, RulesSettings, Settings
from pipeline.store.announce import define, fill
from pipeline.store.database import Database
from pipeline.store.decide import Decisions
from pipeline.store.migrate import opened, upgrade
from pipeline.store.rulebook import read_rules
from pipeline.surge.backtest import Backtest, Fired, Group, summary
from pipeline.surge.plot import Panel
from pipeline.surge.sensitivity import WEEK
from pipeline.times import rfc3339
from schemas.counting import alert_history, confusions, definitions, rule_activations
from schemas.errors import UsageError
from schemas.events import Line
from schemas.tables import alerts, events, instance, item_scores, rule_sets, runs, scores, watermarks

Counting = VolumeRule | ShareRule | AbsenceRule

# Name of the run that a file is.
_RUN = "file"
# Rows copied at once.
_BATCH = 5_000
# What a rule may look at of an event, and where it counts.
_LEFT_OUT = frozenset({"traceparent", "url", "session", "subject"})


class Past(Struct, frozen=True):
    """What was live: the tick from which each definition is counted, names, and what they meant from tick to tick.

    in_force: by stream, the tick from which on these rules decided.
    """

    since: Mapping[str, int]
    live: AbstractSet[str]
    in_force: Mapping[str, Sequence[tuple[int, Sequence[Counting]]]]


@contextlib.asynccontextmanager
async def scratch() -> AsyncIterator[Database]:
    """A database that goes when it is not needed any more."""
    with tempfile.TemporaryDirectory(prefix="salience-") as folder:
        database = Database(DatabaseSettings(url=f"sqlite+aiosqlite:///{Path(folder) / 'scratch.db'}"))
        try:
            await upgrade(database, 0)
            yield database
        finally:
            await database.close()


async def rehearse_database(
    settings: Settings, rules: RuleSet, run: str | None, always: bool, plotted: bool
) -> tuple[Backtest, list[Panel]]:
    """What the rules fire on the settings' database, with a picture of each group that fired, if asked for.

    Raises:
        ConfigError: the database is not usable.
        UsageError, DatabaseError: as `rehearse_stored`.
    """
    async with opened(settings.database) as (database, _):
        return await rehearse_stored(database, rules, run, plotted, always)


async def rehearse_file(
    settings: Settings, rules: RuleSet, lines: Iterable[Line], stream: str, path: str, plotted: bool
) -> tuple[Backtest, list[Panel]]:
    """What the rules fire on a file of events, which the bundle of the settings scores first.

    Raises:
        SalienceError: the file or the bundle are not usable.
    """
    async with scratch() as source:
        # Its own rules would raise alerts of their own.
        apart = {"database": source.settings, "rules": RulesSettings()}
        tally = await backfill(settings.model_copy(update=apart), lines, stream, path, run=_RUN)
        if not tally.stored:
            raise UsageError(
                f"none of the {tally.sent:,} rows of {path} is an event of {stream}; name its fields with --map "
                "and --set, or give --counts for a plain series"
            )
        return await rehearse_stored(source, rules, _RUN, plotted)


async def rehearse_stored(
    source: Database, rules: RuleSet, run: str | None = None, plotted: bool = False, always: bool = False
) -> tuple[Backtest, list[Panel]]:
    """What the rules fire on the events that count for live decisions in `source`, or on those of a back-fill.

    always: as if the rules had been in force from the first event on.

    Raises:
        UsageError: there are no such events.
        DatabaseError: the database is away.
    """
    async with scratch() as copy:
        past = None if run or always else await _past(source, rules)
        until = await _copy(source, copy, run)
        found = await rehearse(copy, rules, until, past)
        return found, await panels(copy, rules, found.alerts) if plotted else []


async def rehearse(
    database: Database, rules: RuleSet, until: Mapping[str, int], past: Past | None = None
) -> Backtest:
    """What the rules fire on the events in `database`, up to tick `until` of each stream; it is used up by that.

    past: what was live; None has all rules decide from the first tick on.
    """
    async with database.begin() as connection:
        tick = (await connection.execute(select(instance.c.tick))).scalar_one()
        for stream in sorted(until):
            await _install(connection, stream, rules, past, until[stream])
    while await fill(database, tick):
        pass
    decisions = Decisions(database, tick, "", live=False)
    for stream in sorted(until):
        await decisions.take(stream, 0)
    return await _found(database, rules, until, tick)


async def _past(source: Database, rules: RuleSet) -> Past:
    """What was in force under the names of these rules, for those that were live."""
    given = {(rule.name, rule.definition) for rule in rules.rules if isinstance(rule, CountRule)}
    query = (
        select(rule_activations.c.stream, rule_activations.c.active_tick, rule_sets.c.rules)
        .join_from(rule_activations, rule_sets, rule_sets.c.version == rule_activations.c.version)
        .where(rule_activations.c.active_tick.is_not(None))
        .order_by(rule_activations.c.active_tick, rule_activations.c.sequence)
    )
    # Announced again after it was stopped, a definition has been counted from several ticks.
    earliest = select(definitions.c.definition, func.min(definitions.c.since_tick)).group_by(
        definitions.c.definition
    )
    async with source.read() as connection:
        since = {row[0]: row[1] for row in await connection.execute(earliest)}
        found = [(row, _counting(read_rules(row.rules))) for row in (await connection.execute(query)).all()]
    live = {
        rule.name
        for row, active in found
        for rule in active
        if rule.stream == row.stream and (rule.name, rule.definition) in given and rule.definition in since
    }
    in_force: dict[str, list[tuple[int, Sequence[Counting]]]] = {}
    for row, active in found:
        of_stream = [rule for rule in active if rule.stream == row.stream and rule.name in live]
        in_force.setdefault(row.stream, []).append((row.active_tick, of_stream))
    return Past(since, live, in_force)


def _counting(rules: RuleSet) -> list[Counting]:
    return [rule for rule in rules.rules if isinstance(rule, CountRule)]


async def _copy(source: Database, copy: Database, run: str | None) -> dict[str, int]:
    """Copy what counts; returns the last tick of each stream that has events."""
    async with source.read() as connection:
        tick = (await connection.execute(select(instance.c.tick))).scalar_one()
        until = await _until(connection, run)
    if not until:
        what = f"the run {run} has no events" if run else "no live events were decided on so far"
        raise UsageError(f"{what} in {source.shown}; name a run with --run, as `salience runs list` shows them")
    async with copy.begin() as connection:
        await connection.execute(update(instance).values(tick=tick))
    await _copy_events(source, copy, until, run)
    tables = [confusions] if run else [confusions, runs]
    for table in tables:
        async with source.read() as connection:
            rows = [dict(row) for row in (await connection.execute(select(table))).mappings()]
        if rows:
            async with copy.begin() as connection:
                fresh = {"counted": False, "counted_event": 0} if table is runs else {}
                await connection.execute(insert(table), [row | fresh for row in rows])
    return until


async def _until(connection: AsyncConnection, run: str | None) -> dict[str, int]:
    if run is None:
        query = select(watermarks.c.stream, watermarks.c.decided_tick.label("tick")).where(
            watermarks.c.run == "", watermarks.c.decided_tick >= 0
        )
    else:
        query = (
            select(events.c.stream, func.max(events.c.visible_tick).label("tick"))
            .where(events.c.run == run)
            .group_by(events.c.stream)
        )
    return {row.stream: row.tick for row in await connection.execute(query)}


async def _copy_events(source: Database, copy: Database, until: Mapping[str, int], run: str | None) -> None:
    last = 0
    names = [column.name for column in events.c if column.name not in _LEFT_OUT]
    which = events.c.run == run if run else events.c.stream.in_(list(until))
    while True:
        query = select(*[events.c[name] for name in names]).where(which, events.c.id > last)
        async with source.read() as connection:
            found = (await connection.execute(query.order_by(events.c.id).limit(_BATCH))).mappings().all()
            if not found:
                return
            first, last = found[0]["id"], found[-1]["id"]
            within = scores.c.event.between(first, last)
            said = (await connection.execute(select(scores).where(within))).mappings().all()
            of_items = select(item_scores).where(
                item_scores.c.item.in_({row["item"] for row in found if row["item"] is not None})
            )
            items = (await connection.execute(of_items)).mappings().all()
        ids = {row["id"] for row in found}
        async with copy.begin() as connection:
            own = {"run": None} if run else {}
            await connection.execute(insert(events), [dict(row) | own for row in found])
            if heads := [dict(row) for row in said if row["event"] in ids]:
                await connection.execute(insert(scores), heads)
            if items:
                statement = insert(item_scores).prefix_with("OR IGNORE")
                await connection.execute(statement, [dict(row) for row in items])


async def _install(
    connection: AsyncConnection, stream: str, rules: RuleSet, past: Past | None, until: int
) -> None:
    """Counters to be filled, and the rules in force from tick to tick."""
    counting = [rule for rule in _counting(rules) if rule.stream == stream]
    always = [rule for rule in counting if past is None or rule.name not in past.live]
    stretches: list[tuple[int, Sequence[Counting]]] = [(0, always)]
    if past is not None:
        stretches += [(tick, [*always, *active]) for tick, active in past.in_force.get(stream, [])]
    last = (await connection.execute(select(func.max(events.c.id)))).scalar_one() or 0
    counted = {rule.definition: rule for _, active in stretches for rule in active}
    for rule in counted.values():
        since = 0 if past is None or rule in always else past.since.get(rule.definition, 0)
        await define(connection, rule, since, last, 0)
    for moment, active in stretches:
        in_force = RuleSet(active)
        known = select(rule_sets.c.version).where(rule_sets.c.version == in_force.version)
        if (await connection.execute(known)).first() is None:
            row = {"version": in_force.version, "rules": in_force.content, "created_at": 0}
            await connection.execute(insert(rule_sets).values(row))
        row = {"stream": stream, "version": in_force.version, "announced_at": 0, "active_tick": moment}
        await connection.execute(insert(rule_activations).values(row))
    clock = {"stream": stream, "run": "", "closed_tick": until, "watermark": 0, "updated_at": 0}
    await connection.execute(insert(watermarks).values(clock))


async def _found(database: Database, rules: RuleSet, until: Mapping[str, int], tick: int) -> Backtest:
    fired = await fired_alerts(database, {rule.name for rule in rules.rules})
    async with database.read() as connection:
        first = (await connection.execute(select(func.min(events.c.visible_tick)))).scalar_one() or 0
    weeks = max((max(until.values()) - first) * tick / 1e6 / WEEK, 1e-9)
    counted: dict[tuple[str, str], int] = {}
    for each in fired:
        counted[each.rule, each.group] = counted.get((each.rule, each.group), 0) + 1
    groups = [
        Group(rule, group, count, round(weeks, 2), round(count / weeks, 3))
        for (rule, group), count in sorted(counted.items())
    ]
    return Backtest(fired, summary(groups))


async def fired_alerts(database: Database, rules: set[str]) -> list[Fired]:
    """The count alerts that a database holds, in the words of a back-test; what never fired is none."""
    fired = select(alert_history.c.alert).where(alert_history.c.state == "firing")
    query = (
        select(alerts)
        .where(alerts.c.kind != "match", alerts.c.rule.in_(rules), alerts.c.id.in_(fired))
        .order_by(alerts.c.start_time, alerts.c.rule, alerts.c.group)
    )
    async with database.read() as connection:
        found = (await connection.execute(query)).all()
    return [_fired(row) for row in found]


def _fired(row: Any) -> Fired:
    said = row.evidence
    return Fired(
        rule=row.rule,
        group=row.group,
        start=rfc3339(row.start_time),
        end=None if row.end_time is None else rfc3339(row.end_time),
        value=said["value"],
        baseline=said["baseline"],
        odds=said["odds"],
    )
