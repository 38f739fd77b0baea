"""Counters as decisions read them: the groups of a definition, their windows, and what is usual in them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule
from pipeline.surge.groups import ACTIVE, Panel, Span, sliding
from pipeline.surge.plans import plan_of
from pipeline.surge.volume import Plan
from schemas.counting import counters, groups

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Before any bucket there is.
_NEVER = -(1 << 50)
# Groups whose counts are read at once.
_AT_ONCE = 200


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
    """One definition's counters, and the column that its rule asks for.

    `labels` are those that a share rule tells apart; else there is one, empty.
    """

    def __init__(self, definition: int, rule: CountRule, tick: int, labels: Sequence[str] = ("",)) -> None:
        """tick: its width in microseconds."""
        self.definition = definition
        self.rule = rule
        self.plan: Plan = plan_of(rule)
        self.labels = list(labels)
        self._ticks = rule.every // tick
        self._per = round(self.plan.window / self.plan.every)
        self.value: ColumnElement[int] = counters.c.single if rule.counts == "distinct" else counters.c.raw

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
        bucket = np.array(cells.buckets, dtype=np.int64)
        label, told = self._places(cells.labels), np.array(cells.raw) > 0
        heard = np.zeros((len(names), span.size), dtype=bool)
        within = told & (bucket >= span.first)
        heard[group[within], bucket[within] - span.first] = True
        lately = np.full(len(names), _NEVER, dtype=np.int64)
        earlier = told & (bucket < span.first)
        np.maximum.at(lately, group[earlier], bucket[earlier])
        windows = self._windows(span, len(names), group, label, bucket, np.array(cells.values, float))
        before = await self._before(connection, span, names, known, lately)
        quiet = await self._quiet(connection, span, at, known)
        return Panel(
            names=names,
            heard=heard,
            before=before,
            windows=windows,
            quiet=np.sort(np.array(quiet, dtype=np.int64)),
        )

    def _windows(self, span: Span, size: int, group: Ints, label: Ints, bucket: Ints, values: Floats) -> Floats:
        """Counts of windows, groups x labels x buckets of the span."""
        apart = label >= 0
        if span.size == 1:
            # What was read is in the one window.
            window = np.zeros((size, len(self.labels)))
            np.add.at(window, (group[apart], label[apart]), values[apart])
            return window[:, :, None]
        counted = np.zeros((size, len(self.labels), span.size + self._per - 1))
        place = bucket[apart] - (span.first - self._per + 1)
        np.add.at(counted, (group[apart], label[apart], place), values[apart])
        return sliding(counted, self._per)

    async def _quiet(
        self, connection: AsyncConnection, span: Span, listed: Mapping[str, int], known: Mapping[str, Known]
    ) -> list[int]:
        """When groups that are not listed were heard last; what came after the span is not known yet."""
        others = {name: each for name, each in known.items() if name not in listed}
        beyond = [name for name, each in others.items() if each.last > span.last and each.first <= span.last]
        earlier = await self._last_before(connection, span.last + 1, beyond)
        return [*(each.last for each in others.values() if each.last <= span.last), *earlier.values()]

    def _places(self, labels: Sequence[str]) -> Ints:
        """Numbers of labels, -1 for those that are not told apart."""
        number = {name: index for index, name in enumerate(self.labels)}
        return np.array([number.get(name, -1) for name in labels], dtype=np.int64)

    async def _cells(self, connection: AsyncConnection, span: Span) -> _Cells:
        key = (counters.c.group, counters.c.label)
        query = select(*key, counters.c.bucket, self.value, counters.c.raw)
        if span.size == 1:
            # One decision asks only for a window's sum, its last bucket, and when a group was heard before.
            sums = [sql_cast(func.sum(each), BigInteger) for each in (self.value, counters.c.raw)]
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
        self,
        connection: AsyncConnection,
        span: Span,
        names: Sequence[str],
        known: Mapping[str, Known],
        lately: Ints,
    ) -> Ints:
        """The last bucket with an event before the span, group by group; `lately` is that of its first window."""
        found = lately.copy()
        unclear: list[str] = []
        for index, name in enumerate(names):
            each = known.get(name)
            if found[index] != _NEVER or each is None:
                continue
            if each.last < span.first:
                found[index] = each.last
            elif each.first < span.first:
                unclear.append(name)
        # Silences are told to the bucket, and so is who was active while a back-test takes many buckets at once.
        if unclear and (span.size > 1 or self.rule.kind == "absence"):
            earlier = await self._last_before(connection, span.first, unclear)
            for index, name in enumerate(names):
                found[index] = earlier.get(name, found[index])
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
