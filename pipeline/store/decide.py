"""Decisions of the rules that count: at closed ticks, on what was visible then, once, whoever takes them.

They are taken in transactions of their own: nothing enters a closed tick, so chunks need not wait for them.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, RuleSet, ShareRule
from pipeline.store import attached, episodes
from pipeline.store.baselines import MOST, Baselines, Basis
from pipeline.store.clock import try_decisions
from pipeline.store.collapse import collapse
from pipeline.store.database import Database
from pipeline.store.judging import judge_span
from pipeline.store.panels import Counts
from pipeline.store.readings import look, reading_of
from pipeline.store.rulebook import rule_set_of
from pipeline.surge.groups import Judged, Span, changes
from schemas.counting import definitions, groups, rule_activations, sightings
from schemas.tables import events, watermarks

# Ticks that are decided on in one transaction, at most a week; and groups times buckets, which bound its memory.
_TICKS = 60_480
_CELLS = 2_000_000


class Stretch(NamedTuple):
    """Closed ticks [first, last] that are decided by one version of the rules; none when first > last."""

    first: int
    last: int
    rules: RuleSet


class Decisions:
    """Takes the decisions of one database. Safe to call from any worker at any time: one at a time has its way."""

    def __init__(self, database: Database, tick: int, topic: str, *, live: bool = True) -> None:
        """tick: its width in microseconds. topic: of the alerts. live: workers wait for it, people are told."""
        self._database = database
        self._tick = tick
        self._told = episodes.Told(topic, tick, live)
        self._baselines = Baselines(most=MOST if live else None)

    async def take(self, stream: str, now: int, seconds: float | None = None) -> int:
        """Decide on the closed ticks of a stream; returns how many alerts changed.

        now: microseconds. seconds: after which the rest is left to the next call; None decides on all.
        """
        changed, end = 0, math.inf if seconds is None else time.monotonic() + seconds
        while True:
            more, count = await self._step(stream, now)
            changed += count
            if not more or time.monotonic() > end:
                return changed

    async def _step(self, stream: str, now: int) -> tuple[bool, int]:
        """One transaction; whether there is more to do, and how many alerts changed."""
        async with self._database.read() as connection:
            decided, closed = await _standing(connection, stream)
        if decided >= closed:
            return False, 0
        async with self._database.begin() as connection:
            if not await try_decisions(connection, stream):
                return False, 0
            decided, closed = await _standing(connection, stream)
            if decided >= closed:
                return False, 0
            if await attached.count_batch(connection, stream, decided + 1, self._tick):
                return True, 0
            stretch = await self._stretch(connection, stream, decided, closed)
            rules = await self._counted(connection, stream, stretch)
            last = stretch.last
            for number, rule in rules:
                last = min(last, await collapse(connection, number, rule.every // self._tick, last, self._tick))
            if last < stretch.last:
                # Repeats come first, a batch at a time; what was collapsed so far is kept.
                return True, 0
            found = await self._judged(connection, stream, stretch, rules)
            if found is None:
                return True, 0
            changed = await self._write(connection, stream, rules, found, now)
            await _decided(connection, stream, stretch.last)
            return stretch.last < closed, changed

    async def _stretch(self, connection: AsyncConnection, stream: str, decided: int, closed: int) -> Stretch:
        """The next ticks: up to other rules, another bundle, a back-fill, or as many as memory allows."""
        first = decided + 1
        last = min(closed, await attached.before(connection, stream, first, closed))
        rules, until = await _rules_at(connection, stream, first)
        last = min(last, until)
        begin, size = await _extent(connection, stream, first)
        if begin is None or begin > last:
            return Stretch(last + 1, last, rules)
        # Nothing was counted before, and nothing can be decided on.
        first = max(first, begin)
        last = min(last, first + self._reach(rules, stream, size) - 1)
        return Stretch(first, await _before_other_bundle(connection, stream, first, last), rules)

    def _reach(self, rules: RuleSet, stream: str, size: int) -> int:
        """Ticks that are decided on at once, with so many groups."""
        ticks = [rule.every // self._tick for rule in _counting(rules, stream)]
        buckets = max(36, _CELLS // max(size, 1))
        return min(_TICKS, buckets * min(ticks, default=1))

    async def _counted(
        self, connection: AsyncConnection, stream: str, stretch: Stretch
    ) -> list[tuple[int, CountRule]]:
        counting = _counting(stretch.rules, stream)
        numbers = await _numbers(connection, [rule.definition for rule in counting])
        return [(numbers[rule.definition], rule) for rule in counting if rule.definition in numbers]

    async def _judged(
        self, connection: AsyncConnection, stream: str, stretch: Stretch, rules: Sequence[tuple[int, CountRule]]
    ) -> "list[_Found] | None":
        """What the rules find in the stretch; None while baselines are still to be made."""
        shares = any(isinstance(rule, ShareRule) for _, rule in rules)
        if shares and not await look(connection, stream, stretch.last):
            return None
        runs = await attached.counted_runs(connection, stream)
        found: list[_Found] = []
        ready = True
        for number, rule in rules:
            span = _span(rule, stretch, self._tick)
            if span is None:
                continue
            ticks = rule.every // self._tick
            end = (span.last + 1) * ticks - 1
            bundle = await _latest_bundle(connection, stream, end)
            reading = await reading_of(connection, bundle, rule, ticks) if isinstance(rule, ShareRule) else None
            counts = Counts(number, rule, self._tick, reading.confusion.labels if reading else ("",))
            basis = Basis(counts, await counts.known(connection), runs, reading)
            judged = await judge_span(connection, basis, span, self._baselines)
            ready = ready and judged is not None
            if judged is not None:
                found.append(_Found(counts, bundle, span, judged[0].names, judged[1]))
        return found if ready else None

    async def _write(
        self,
        connection: AsyncConnection,
        stream: str,
        rules: Sequence[tuple[int, CountRule]],
        found: "Sequence[_Found]",
        now: int,
    ) -> int:
        firing = await episodes.open_episodes(connection, stream)
        changed = await self._told.drop_unruled(connection, stream, firing, {rule.name for _, rule in rules}, now)
        for counts, bundle, span, names, judged in found:
            of_rule = firing.get(counts.rule.name, {})
            turns = changes(counts.plan, span, names, judged, of_rule)
            changed += await self._told.write(connection, counts, bundle, of_rule, turns, now)
        return changed


class _Found(NamedTuple):
    """What one rule found in a span of buckets."""

    counts: Counts
    bundle: str
    span: Span
    names: Sequence[str]
    judged: Judged


def _counting(rules: RuleSet, stream: str) -> list[CountRule]:
    """Of one stream: whoever decides on it must leave the counters of the others alone."""
    return [rule for rule in rules.rules if isinstance(rule, CountRule) and rule.stream == stream]


def _span(rule: CountRule, stretch: Stretch, tick: int) -> Span | None:
    """The buckets that end within the stretch."""
    ticks = rule.every // tick
    first, last = -(-(stretch.first + 1) // ticks) - 1, (stretch.last + 1) // ticks - 1
    return Span(first, last, rule.every / 1e6) if first <= last else None


async def _standing(connection: AsyncConnection, stream: str) -> tuple[int, int]:
    query = select(watermarks.c.decided_tick, watermarks.c.closed_tick)
    row = (
        await connection.execute(query.where(watermarks.c.stream == stream, watermarks.c.run == ""))
    ).one_or_none()
    return (-1, -1) if row is None else (row.decided_tick, row.closed_tick)


async def _decided(connection: AsyncConnection, stream: str, tick: int) -> None:
    one = update(watermarks).where(watermarks.c.stream == stream, watermarks.c.run == "")
    await connection.execute(one.values(decided_tick=tick))


async def _rules_at(connection: AsyncConnection, stream: str, tick: int) -> tuple[RuleSet, int]:
    """The rules in force at a tick, and the last tick at which they are."""
    query = (
        select(rule_activations.c.sequence, rule_activations.c.active_tick)
        .where(rule_activations.c.stream == stream, rule_activations.c.active_tick.is_not(None))
        .order_by(rule_activations.c.active_tick, rule_activations.c.sequence)
    )
    sequence, until = None, 1 << 60
    for row in await connection.execute(query):
        if row.active_tick <= tick:
            sequence = row.sequence
        else:
            until = row.active_tick - 1
            break
    return RuleSet() if sequence is None else await rule_set_of(connection, sequence), until


async def _extent(connection: AsyncConnection, stream: str, tick: int) -> tuple[int | None, int]:
    """The first tick at which anything was counted (any one before `tick` tells as much), and how many groups."""
    of_stream = select(definitions.c.id).where(definitions.c.stream == stream)
    seen = select(func.min(groups.c.first_tick), func.count()).where(groups.c.definition.in_(of_stream))
    first, size = (await connection.execute(seen)).one()
    if first is not None and first <= tick:
        return first, size
    fresh = select(func.min(sightings.c.tick)).where(
        sightings.c.definition.in_(of_stream), sightings.c.counted.is_(None)
    )
    begun = [each for each in (first, (await connection.execute(fresh)).scalar_one()) if each is not None]
    return min(begun, default=None), size


async def _numbers(connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    # One that is announced again is counted in another row, which holds nothing before it is filled.
    filled = definitions.c.filled_event >= definitions.c.last_event
    query = (
        select(definitions.c.definition, func.max(definitions.c.id).label("id"))
        .where(definitions.c.definition.in_(names), filled)
        .group_by(definitions.c.definition)
    )
    return {row.definition: row.id for row in await connection.execute(query)}


async def _before_other_bundle(connection: AsyncConnection, stream: str, first: int, last: int) -> int:
    """The last tick before another bundle scored an event, `last` at most."""
    current = await _latest_bundle(connection, stream, first)
    query = select(func.min(events.c.visible_tick)).where(
        events.c.stream == stream,
        events.c.visible_tick > first,
        events.c.visible_tick <= last,
        events.c.run.is_(None),
        events.c.bundle != current,
    )
    found = (await connection.execute(query)).scalar_one()
    return last if found is None else int(found) - 1


async def _latest_bundle(connection: AsyncConnection, stream: str, tick: int) -> str:
    """What scored the latest event of a stream by then; its confusion matrix holds for shares."""
    latest = (
        select(events.c.bundle)
        .where(events.c.stream == stream, events.c.visible_tick <= tick, events.c.run.is_(None))
        .order_by(events.c.visible_tick.desc(), events.c.bundle.desc())
        .limit(1)
    )
    return (await connection.execute(latest)).scalar_one_or_none() or ""
