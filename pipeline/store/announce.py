"""Another version of the rules: announced, counted from what is stored, then active from one tick for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.counting import Counted
from pipeline.rules import CountRule, RuleSet
from pipeline.store import stored
from pipeline.store.clock import ensure_watermark, stop_clock
from pipeline.store.collapse import MEMORY
from pipeline.store.counters import Sighting, count_stored
from pipeline.store.database import Database
from pipeline.store.rule_sets import remember_rules
from pipeline.store.rulebook import count_rules, counted_rules, rule_set_of
from pipeline.surge.groups import ACTIVE
from pipeline.surge.plans import plan_of
from schemas.counting import definitions, rule_activations
from schemas.errors import ConfigError
from schemas.labels import STREAMS
from schemas.tables import events, runs, watermarks

log = structlog.get_logger("salience.rules")

# Row numbers of stored events that are counted in one transaction.
BATCH = 5_000


async def announce(database: Database, rules: RuleSet, tick: int, now: int) -> bool:
    """Let workers count for these rules; False when they are the latest that were announced.

    tick: microseconds.

    Raises:
        ConfigError: a rule's times do not suit the ticks of this database.
    """
    for rule in rules.rules:
        if isinstance(rule, CountRule) and rule.every % tick:
            raise ConfigError(
                f"the rule {rule.name}: every is no multiple of {tick // 1_000_000}s, the tick of this database"
            )
    if await latest(database) == rules.version:
        return False
    await remember_rules(database, rules, now, also_empty=True)
    async with database.begin() as connection:
        # All clocks stand still: a chunk before this is counted from what is stored, one after it counts itself.
        await _stop_clocks(connection, now)
        if await _latest(connection) == rules.version:
            return False
        last_event = (await connection.execute(select(func.max(events.c.id)))).scalar_one() or 0
        for stream in sorted(STREAMS):
            values = {"stream": stream, "version": rules.version, "announced_at": now}
            await connection.execute(insert(rule_activations).values(values))
            closed = await _closed(connection, stream)
            await _define(connection, stream, rules, closed, last_event, tick, now)
            await _stop_unused(connection, stream, now)
        # What was counted of a back-fill that is being counted was not counted for these.
        under_way = runs.c.attached_tick.is_not(None) & ~runs.c.counted
        await connection.execute(update(runs).where(under_way).values(counted_event=0))
    log.info("rules announced", version=rules.version, rules=len(rules.rules))
    return True


async def latest(database: Database) -> str | None:
    """The version of the rules that was announced last."""
    async with database.read() as connection:
        return await _latest(connection)


async def _latest(connection: AsyncConnection) -> str | None:
    query = select(rule_activations.c.version).order_by(rule_activations.c.sequence.desc()).limit(1)
    return (await connection.execute(query)).scalar_one_or_none()


async def _stop_clocks(connection: AsyncConnection, now: int) -> None:
    for stream in sorted(STREAMS):
        await stop_clock(connection, stream, "")
        await ensure_watermark(connection, stream, "", now)


async def _closed(connection: AsyncConnection, stream: str) -> int:
    query = select(watermarks.c.closed_tick).where(watermarks.c.stream == stream, watermarks.c.run == "")
    return int((await connection.execute(query)).scalar_one())


def looks_back(rule: CountRule) -> int:
    """Microseconds of events before a decision that it may depend on."""
    baseline = rule.baseline + rule.window + 2 * round(plan_of(rule).refit * 1e6)
    return max(baseline, round(ACTIVE * 1e6)) + MEMORY


async def _define(
    connection: AsyncConnection, stream: str, rules: RuleSet, closed: int, last_event: int, tick: int, now: int
) -> None:
    known = {rule.definition for _, rule in await counted_rules(connection, stream)}
    for rule in rules.rules:
        if not isinstance(rule, CountRule) or rule.stream != stream or rule.definition in known:
            continue
        known.add(rule.definition)
        await define(connection, rule, max(0, closed + 1 - looks_back(rule) // tick), last_event, now)


async def define(connection: AsyncConnection, rule: CountRule, since: int, last_event: int, now: int) -> None:
    """Let a rule be counted from tick `since` on: up to row `last_event` from what is stored."""
    values = {
        "definition": rule.definition,
        "stream": rule.stream,
        "rule": rule.model_dump(mode="json"),
        "since_tick": since,
        "last_event": last_event,
        "filled_event": 0,
        "collapsed_tick": since - 1,
        "created_at": now,
    }
    await connection.execute(insert(definitions).values(values))


async def _stop_unused(connection: AsyncConnection, stream: str, now: int) -> None:
    """Count no longer what neither the rules in force nor the latest ones name."""
    of_stream = select(func.max(rule_activations.c.sequence)).where(rule_activations.c.stream == stream)
    active = (await connection.execute(of_stream.where(rule_activations.c.active_tick.is_not(None)))).scalar_one()
    announced = (await connection.execute(of_stream)).scalar_one()
    used = [
        rule.definition
        for sequence in (active, announced)
        if sequence is not None
        for rule in (await rule_set_of(connection, sequence)).rules
    ]
    unused = definitions.c.stopped_at.is_(None) & definitions.c.definition.not_in(used)
    await connection.execute(
        update(definitions).where(definitions.c.stream == stream, unused).values(stopped_at=now)
    )


async def fill(database: Database, tick: int) -> bool:
    """Count a batch of stored events for a definition that is behind; False when none is."""
    behind = definitions.c.stopped_at.is_(None) & (definitions.c.filled_event < definitions.c.last_event)
    query = select(definitions).where(behind).order_by(definitions.c.id).limit(1)
    async with database.read() as connection:
        if (await connection.execute(query)).first() is None:
            return False
    async with database.begin() as connection:
        row = (await connection.execute(query.with_for_update(skip_locked=True))).mappings().one_or_none()
        if row is None:
            return False
        # By row numbers, not by matches: a stream that is rare must not make one statement read the whole table.
        filled = min(row["filled_event"] + BATCH, row["last_event"])
        wanted = stored.query().where(
            stored.counting(row["stream"]),
            events.c.id > row["filled_event"],
            events.c.id <= filled,
            events.c.visible_tick >= row["since_tick"],
        )
        found = await stored.read(connection, wanted.order_by(events.c.id))
        await count_stored(connection, sightings_of(_counted(row, tick), found))
        await connection.execute(
            update(definitions).where(definitions.c.id == row["id"]).values(filled_event=filled)
        )
    return True


def _counted(row: Mapping[Any, Any], tick: int) -> Counted:
    return Counted(row["id"], count_rules([row["rule"]])[0], tick)


def sightings_of(counted: Counted, found: Sequence[stored.Stored]) -> list[Sighting]:
    """What stored events count for."""
    return [
        Sighting(counted.number, group, each.id, label, each.tick, counted.ticks, each.signature, each.partition)
        for each in found
        for group, label in counted.sightings(each.facts)
    ]


async def activate(database: Database, now: int) -> str | None:
    """Let the latest rules decide from the next tick on, once all is counted; returns their version then."""
    if await _waiting(database) is None:
        return None
    async with database.begin() as connection:
        await _stop_clocks(connection, now)
        version = await _latest(connection)
        newest = select(func.max(rule_activations.c.sequence)).group_by(rule_activations.c.stream)
        waiting = rule_activations.c.sequence.in_(newest) & rule_activations.c.active_tick.is_(None)
        found = (await connection.execute(select(rule_activations).where(waiting))).all()
        if not found or await _behind(connection):
            return None
        for row in found:
            active = await _closed(connection, row.stream) + 1
            one = update(rule_activations).where(rule_activations.c.sequence == row.sequence)
            await connection.execute(one.values(active_tick=active))
            await _stop_unused(connection, row.stream, now)
    log.info("rules in force", version=version)
    return version


async def _waiting(database: Database) -> int | None:
    """The latest announcement, if it is to be active and all is counted."""
    newest = select(func.max(rule_activations.c.sequence)).scalar_subquery()
    query = select(rule_activations.c.sequence).where(
        rule_activations.c.sequence == newest, rule_activations.c.active_tick.is_(None)
    )
    async with database.read() as connection:
        if await _behind(connection):
            return None
        return (await connection.execute(query)).scalar_one_or_none()


async def _behind(connection: AsyncConnection) -> bool:
    """Whether a definition is not counted, or its repeats not collapsed, up to where decisions are."""
    unfilled = definitions.c.filled_event < definitions.c.last_event
    uncollapsed = definitions.c.collapsed_tick < watermarks.c.decided_tick
    query = (
        select(definitions.c.id)
        .join(watermarks, (watermarks.c.stream == definitions.c.stream) & (watermarks.c.run == ""))
        .where(definitions.c.stopped_at.is_(None), unfilled | uncollapsed)
        .limit(1)
    )
    return (await connection.execute(query)).first() is not None
