"""Counters as decisions read them: the groups of a definition, their windows, and what is usual in them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, bindparam, func, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, ShareRule
from pipeline.surge.baseline import Baseline, fit
from pipeline.surge.groups import ACTIVE, Need, Panel, Span, sliding
from pipeline.surge.plans import plan_of
from pipeline.surge.share import Confusion, ShareBaseline, fit_share
from pipeline.surge.volume import Plan
from schemas.counting import counters, groups

Floats = NDArray[np.float64]
Fitted = Baseline | ShareBaseline

# Before any bucket there is.
_NEVER = -(1 << 50)
# Groups whose counts are read at once.
_AT_ONCE = 200
# Baselines kept in memory, of the groups that were judged last.
_KEPT = 20_000


class Known(Struct):
    """A group as `groups` has it: buckets of its first and last event, and the baseline that was made last."""

    first: int
    last: int
    until: int | None
    runs: int | None


class _Cells(NamedTuple):
    """Rows of counters, column by column."""

    groups: Sequence[str]
    labels: Sequence[str]
    buckets: Sequence[int]
    values: Sequence[int]
    raw: Sequence[int]


class Counts:
    """One definition's counters. `labels` are those that a share rule tells apart; else there is one, empty."""

    def __init__(self, definition: int, rule: CountRule, tick: int, labels: Sequence[str] = ("",)) -> None:
        """tick: its width in microseconds."""
        self.definition = definition
        self.rule = rule
        self.plan: Plan = plan_of(rule)
        self.labels = list(labels)
        self._ticks = rule.every // tick
        self._per = round(self.plan.window / self.plan.every)
        self._value: ColumnElement[int] = counters.c.single if rule.counts == "distinct" else counters.c.raw

    def buckets(self, moment: float) -> tuple[int, int]:
        """The first and last bucket of the window that ends at a moment (seconds since 1970)."""
        last = round(moment / self.plan.every) - 1
        return last - self._per + 1, last

    def window(self, moment: float) -> tuple[int, int]:
        """Its ticks: the first one, and the one after the last."""
        first, last = self.buckets(moment)
        return first * self._ticks, (last + 1) * self._ticks

    async def known(self, connection: AsyncConnection) -> dict[str, Known]:
        """All groups that were ever seen."""
        names = ("group", "first_tick", "last_tick", "fitted_until", "fitted_runs")
        query = select(*[groups.c[name] for name in names]).where(groups.c.definition == self.definition)
        return {
            row.group: Known(
                row.first_tick // self._ticks, row.last_tick // self._ticks, row.fitted_until, row.fitted_runs
            )
            for row in await connection.execute(query)
        }

    async def panel(self, connection: AsyncConnection, span: Span, known: Mapping[str, Known]) -> Panel:
        """Groups with an event in any window of the span; for absence all that were active lately."""
        cells = await self._cells(connection, span)
        names = sorted(set(cells.groups))
        if self.rule.kind == "absence":
            oldest = span.first - int(ACTIVE / span.every)
            heard_of = (name for name, each in known.items() if oldest < each.last and each.first <= span.last)
            names = sorted({*names, *heard_of})
        at = {name: index for index, name in enumerate(names)}
        group = np.array([at[name] for name in cells.groups], dtype=np.int64)
        bucket = np.array(cells.buckets, dtype=np.int64) - (span.first - self._per + 1)
        label, told = self._places(cells.labels), np.array(cells.raw) > 0
        heard = np.zeros((len(names), span.size + self._per - 1), dtype=bool)
        heard[group[told], bucket[told]] = True
        counted = np.zeros((len(names), len(self.labels), span.size + self._per - 1))
        values, apart = np.array(cells.values, float), label >= 0
        np.add.at(counted, (group[apart], label[apart], bucket[apart]), values[apart])
        before = await self._before(connection, span, names, known, heard[:, : self._per - 1])
        quiet = [each.last for name, each in known.items() if name not in at and each.last <= span.last]
        return Panel(
            names=names,
            heard=heard[:, self._per - 1 :],
            before=np.array(before, dtype=np.int64),
            windows=sliding(counted, self._per),
            quiet=np.sort(np.array(quiet, dtype=np.int64)),
        )

    def _places(self, labels: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of labels, -1 for those that are not told apart."""
        number = {name: index for index, name in enumerate(self.labels)}
        return np.array([number.get(name, -1) for name in labels], dtype=np.int64)

    async def _cells(self, connection: AsyncConnection, span: Span) -> _Cells:
        key = (counters.c.group, counters.c.label)
        query = select(*key, counters.c.bucket, self._value, counters.c.raw)
        if span.size == 1:
            # One decision asks only for a window's sum, its last bucket, and when a group was heard before.
            sums = [sql_cast(func.sum(each), BigInteger) for each in (self._value, counters.c.raw)]
            earlier = counters.c.bucket < span.first
            query = select(*key, func.max(counters.c.bucket), *sums).group_by(*key, earlier)
        found = await connection.execute(
            query.where(
                counters.c.definition == self.definition,
                counters.c.bucket > span.first - self._per,
                counters.c.bucket <= span.last,
            )
        )
        rows = found.all()
        return _Cells(*zip(*rows, strict=True)) if rows else _Cells((), (), (), (), ())

    async def _before(
        self, connection: AsyncConnection, span: Span, names: Sequence[str], known: Mapping[str, Known], heard: Any
    ) -> list[int]:
        """The last bucket with an event before the span, group by group."""
        found: list[int] = []
        unclear: list[str] = []
        for index, name in enumerate(names):
            lately = np.flatnonzero(heard[index])
            if len(lately):
                found.append(span.first - self._per + 1 + int(lately[-1]))
            elif name in known and known[name].last < span.first:
                found.append(known[name].last)
            else:
                found.append(_NEVER)
                if name in known and known[name].first < span.first:
                    unclear.append(name)
        # Silences are told to the bucket, and so is who was active while a back-test takes many buckets at once.
        if unclear and (span.size > 1 or self.rule.kind == "absence"):
            earlier = await self._last_before(connection, span.first, unclear)
            found = [earlier.get(name, bucket) for name, bucket in zip(names, found, strict=True)]
        return found

    async def _last_before(self, connection: AsyncConnection, bucket: int, names: Sequence[str]) -> dict[str, int]:
        last: dict[str, int] = {}
        for at in range(0, len(names), _AT_ONCE):
            query = (
                select(counters.c.group, func.max(counters.c.bucket).label("bucket"))
                .where(
                    counters.c.definition == self.definition,
                    counters.c.group.in_(names[at : at + _AT_ONCE]),
                    counters.c.bucket < bucket,
                    counters.c.raw > 0,
                )
                .group_by(counters.c.group)
            )
            last |= {row.group: row.bucket for row in await connection.execute(query)}
        return last

    async def coarse(
        self, connection: AsyncConnection, needed: Sequence[Need], known: Mapping[str, Known]
    ) -> dict[Need, tuple[Floats, float]]:
        """Counts (buckets x labels) of each baseline, and where they begin (seconds); without those too short."""
        size = self.plan.bucket
        per, length = round(size / self.plan.every), round(self.plan.baseline / size)
        ranges: dict[Need, tuple[int, int]] = {}
        for name, until in needed:
            begun = -(-known[name].first * self.plan.every // size)
            to = int(until // size)
            since = max(to - length, int(begun))
            if (to - since) * size >= self.plan.least:
                ranges[name, until] = since, to
        if not ranges:
            return {}
        low, high = min(each[0] for each in ranges.values()), max(each[1] for each in ranges.values())
        read = await self._coarse_rows(connection, sorted({name for name, _ in ranges}), per, low, high)
        return {
            (name, until): (read[name][since - low : to - low], since * size)
            for (name, until), (since, to) in ranges.items()
        }

    async def _coarse_rows(
        self, connection: AsyncConnection, names: Sequence[str], per: int, low: int, high: int
    ) -> dict[str, Floats]:
        label = {name: index for index, name in enumerate(self.labels)}
        found = {name: np.zeros((high - low, len(self.labels))) for name in names}
        bucket = (counters.c.bucket // per).label("coarse")
        for at in range(0, len(names), _AT_ONCE):
            query = (
                select(
                    counters.c.group,
                    counters.c.label,
                    bucket,
                    sql_cast(func.sum(self._value), BigInteger).label("value"),
                )
                .where(
                    counters.c.definition == self.definition,
                    counters.c.group.in_(names[at : at + _AT_ONCE]),
                    counters.c.bucket >= low * per,
                    counters.c.bucket < high * per,
                )
                .group_by(counters.c.group, counters.c.label, bucket)
            )
            for row in await connection.execute(query):
                place = label.get(row.label)
                if place is not None:
                    found[row.group][row.coarse - low, place] += row.value
        return found


class Baselines:
    """Baselines of all definitions: made once, kept in memory, and stored for whoever comes next."""

    def __init__(self, stored: bool = True) -> None:
        self._stored = stored
        self._kept: dict[tuple[int, str, int, int], Fitted | None] = {}

    async def of(
        self,
        connection: AsyncConnection,
        counts: Counts,
        needed: Iterable[Need],
        known: Mapping[str, Known],
        runs: int,
        confusion: Confusion | None = None,
    ) -> dict[Need, Fitted | None]:
        """The baselines needed, None where too little was seen; `runs` is the number of attached back-fills."""
        wanted = list(dict.fromkeys(needed))
        missing = [each for each in wanted if (counts.definition, *each, runs) not in self._kept]
        if missing:
            if len(self._kept) > _KEPT:
                self._kept.clear()
                missing = wanted
            await self._recall(connection, counts, missing, known, runs)
            missing = [each for each in missing if (counts.definition, *each, runs) not in self._kept]
            await self._make(connection, counts, missing, known, runs, confusion)
        return {each: self._kept[counts.definition, *each, runs] for each in wanted}

    async def _recall(
        self,
        connection: AsyncConnection,
        counts: Counts,
        missing: Sequence[Need],
        known: Mapping[str, Known],
        runs: int,
    ) -> None:
        names = [name for name, until in missing if (known[name].until, known[name].runs) == (until, runs)]
        kind = ShareBaseline if isinstance(counts.rule, ShareRule) else Baseline
        for at in range(0, len(names), _AT_ONCE):
            query = select(groups.c.group, groups.c.fitted_until, groups.c.fitted).where(
                groups.c.definition == counts.definition, groups.c.group.in_(names[at : at + _AT_ONCE])
            )
            for row in await connection.execute(query):
                stored = None if row.fitted is None else msgspec.convert(row.fitted, kind)
                self._kept[counts.definition, row.group, row.fitted_until, runs] = cast(Fitted | None, stored)

    async def _make(
        self,
        connection: AsyncConnection,
        counts: Counts,
        missing: Sequence[Need],
        known: Mapping[str, Known],
        runs: int,
        confusion: Confusion | None,
    ) -> None:
        if not missing:
            return
        plan, seen = counts.plan, await counts.coarse(connection, missing, known)
        latest: dict[str, tuple[int, Fitted | None]] = {}
        for need in missing:
            fitted: Fitted | None = None
            if need in seen:
                values, start = seen[need]
                if confusion is not None:
                    watched = cast(ShareRule, counts.rule).label
                    fitted = fit_share(values, plan.bucket, plan.window, confusion, watched)
                else:
                    fitted = fit(values[:, 0], start, plan.bucket, plan.window)
            self._kept[counts.definition, *need, runs] = fitted
            if need[0] not in latest or need[1] > latest[need[0]][0]:
                latest[need[0]] = need[1], fitted
        if self._stored:
            await _store(connection, counts.definition, latest, runs)


async def _store(
    connection: AsyncConnection, definition: int, latest: Mapping[str, tuple[int, Fitted | None]], runs: int
) -> None:
    one = update(groups).where(groups.c.definition == definition, groups.c.group == bindparam("name"))
    rows = [
        {"name": name, "until": until, "made": None if fitted is None else msgspec.to_builtins(fitted)}
        for name, (until, fitted) in sorted(latest.items())
    ]
    values = {"fitted_until": bindparam("until"), "fitted": bindparam("made"), "fitted_runs": runs}
    await connection.execute(one.values(values), rows)
