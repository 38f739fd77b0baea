"""What rules would have fired on stored events: the live way over a copy of them, at a database of its own.

A rule that was live is counted from where it was counted then, and decides from the tick at which it came into
force, so that it gives what live gave, alert for alert. A rule that never was live decides from the first tick on.
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.backfill import backfill
from pipeline.rehearse_plot import panels
from pipeline.rules import CountRule, RuleSet
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
from schemas.counting import alert_history, confusions, definitions, readings, rule_activations
from schemas.errors import UsageError
from schemas.events import Line
from schemas.tables import alerts, events, instance, item_scores, rule_sets, runs, scores, watermarks

# Name of the run that a file is.
_RUN = "file"
# Rows copied at once.
_BATCH = 5_000
# What a rule may look at of an event, and where it counts.
_LEFT_OUT = frozenset({"traceparent", "url", "session", "subject"})


class Past(Struct, frozen=True):
    """A rule as it was live: counted from a tick on, and in force in stretches [first, last] of ticks."""

    since: int
    stretches: Sequence[tuple[int, int | None]]


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
    settings: Settings, rules: RuleSet, run: str | None, plotted: bool
) -> tuple[Backtest, list[Panel]]:
    """What the rules fire on the settings' database, with a picture of each group that fired, if asked for.

    Raises:
        ConfigError: the database is not usable.
        UsageError, DatabaseError: as `rehearse_stored`.
    """
    async with opened(settings.database) as (database, _):
        return await rehearse_stored(database, rules, run, plotted)


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
        await backfill(settings.model_copy(update=apart), lines, stream, path, run=_RUN)
        return await rehearse_stored(source, rules, _RUN, plotted)


async def rehearse_stored(
    source: Database, rules: RuleSet, run: str | None = None, plotted: bool = False
) -> tuple[Backtest, list[Panel]]:
    """What the rules fire on the events that count for live decisions in `source`, or on those of a back-fill.

    Raises:
        UsageError: there are no such events.
        DatabaseError: the database is away.
    """
    async with scratch() as copy:
        past = {} if run else await _past(source, rules)
        until = await _copy(source, copy, run)
        found = await rehearse(copy, rules, until, past)
        return found, await panels(copy, rules, found.alerts) if plotted else []


async def rehearse(
    database: Database, rules: RuleSet, until: Mapping[str, int], past: Mapping[str, Past] | None = None
) -> Backtest:
    """What the rules fire on the events in `database`, up to tick `until` of each stream; it is used up by that.

    past: by the definitions of rules that were live.
    """
    async with database.begin() as connection:
        tick = (await connection.execute(select(instance.c.tick))).scalar_one()
        for stream in sorted(until):
            await _install(connection, stream, rules, past or {}, until[stream])
    while await fill(database, tick):
        pass
    decisions = Decisions(database, tick, "", live=False)
    for stream in sorted(until):
        await decisions.take(stream, 0)
    return await _found(database, rules, until, tick)


async def _past(source: Database, rules: RuleSet) -> dict[str, Past]:
    """What of these rules was live, by definition."""
    past: dict[str, Past] = {}
    async with source.read() as connection:
        for rule in rules.rules:
            if not isinstance(rule, CountRule):
                continue
            # Announced again after it was stopped, it has been counted from several ticks.
            earliest = select(func.min(definitions.c.since_tick)).where(
                definitions.c.definition == rule.definition
            )
            since = (await connection.execute(earliest)).scalar_one_or_none()
            stretches = await _stretches(connection, rule)
            if since is not None and stretches:
                past[rule.definition] = Past(since, stretches)
    return past


async def _stretches(connection: AsyncConnection, rule: CountRule) -> list[tuple[int, int | None]]:
    """From which tick to which a rule was in force."""
    query = (
        select(rule_activations.c.active_tick, rule_sets.c.rules)
        .join_from(rule_activations, rule_sets, rule_sets.c.version == rule_activations.c.version)
        .where(rule_activations.c.stream == rule.stream, rule_activations.c.active_tick.is_not(None))
        .order_by(rule_activations.c.active_tick, rule_activations.c.sequence)
    )
    found: list[tuple[int, int | None]] = []
    for row in await connection.execute(query):
        known = {(each.name, each.definition) for each in read_rules(row.rules).rules}
        if found and found[-1][1] is None:
            found[-1] = found[-1][0], row.active_tick - 1
        if (rule.name, rule.definition) in known:
            found.append((row.active_tick, None))
    return found


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
    tables = [confusions] if run else [confusions, readings, runs]
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
    connection: AsyncConnection, stream: str, rules: RuleSet, past: Mapping[str, Past], until: int
) -> None:
    """Counters to be filled, and the rules in force from tick to tick."""
    counting = [rule for rule in rules.rules if isinstance(rule, CountRule) and rule.stream == stream]
    last = (await connection.execute(select(func.max(events.c.id)))).scalar_one() or 0
    for rule in {rule.definition: rule for rule in counting}.values():
        since = past[rule.definition].since if rule.definition in past else 0
        await define(connection, rule, since, last, 0)
    for moment in sorted({0, *(each for of in past.values() for pair in of.stretches for each in _edges(pair))}):
        active = RuleSet([rule for rule in counting if _in_force(past.get(rule.definition), moment)])
        known = select(rule_sets.c.version).where(rule_sets.c.version == active.version)
        if (await connection.execute(known)).first() is None:
            row = {"version": active.version, "rules": active.content, "created_at": 0}
            await connection.execute(insert(rule_sets).values(row))
        row = {"stream": stream, "version": active.version, "announced_at": 0, "active_tick": moment}
        await connection.execute(insert(rule_activations).values(row))
    clock = {"stream": stream, "run": "", "closed_tick": until, "watermark": 0, "updated_at": 0}
    await connection.execute(insert(watermarks).values(clock))


def _edges(stretch: tuple[int, int | None]) -> list[int]:
    return [stretch[0]] if stretch[1] is None else [stretch[0], stretch[1] + 1]


def _in_force(past: Past | None, tick: int) -> bool:
    if past is None:
        return True
    return any(first <= tick and (last is None or tick <= last) for first, last in past.stretches)


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
