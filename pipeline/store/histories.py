"""The counts that baselines are made of: read once, and gone on with where the last baseline of a group ended."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.panels import Counts, Floats, Known
from pipeline.surge.groups import Need
from schemas.counting import counters

# Groups whose counts are read at once.
_AT_ONCE = 200
# Counts that are kept in memory, of four bytes each, beside those that are just asked for.
_CELLS = 16_000_000

# A definition and a group of it.
_Key = tuple[int, str]


class Range(NamedTuple):
    """Coarse buckets [since, to)."""

    since: int
    to: int


class _Seen(NamedTuple):
    """Counts [buckets, labels] from the bucket `since`, with so many attached back-fills among them."""

    runs: int
    labels: tuple[str, ...]
    since: int
    counts: NDArray[np.int32]

    @property
    def to(self) -> int:
        return self.since + len(self.counts)


class Histories:
    """Coarse counts of groups. What is closed changes by attached back-fills only, which are counted."""

    def __init__(self, cells: int = _CELLS) -> None:
        self._cells = cells
        self._seen: dict[_Key, _Seen] = {}

    async def of(
        self,
        connection: AsyncConnection,
        counts: Counts,
        known: Mapping[str, Known],
        runs: int,
        needed: Sequence[Need],
        start: int = 0,
    ) -> dict[Need, tuple[Floats, float]]:
        """Counts (buckets x labels) of each baseline, and where they begin (seconds); without those too short.

        start: the bucket before which nothing is looked at.
        """
        size = counts.plan.bucket
        ranges = _ranges(counts, known, needed, start)
        groups: dict[str, Range] = {}
        for (name, _), (since, to) in ranges.items():
            each = groups.get(name, Range(since, to))
            groups[name] = Range(min(each.since, since), max(each.to, to))
        await self._see(connection, counts, runs, groups)
        found: dict[Need, tuple[Floats, float]] = {}
        for (name, until), (since, to) in ranges.items():
            seen = self._seen[counts.definition, name]
            found[name, until] = seen.counts[since - seen.since : to - seen.since].astype(float), since * size
        self._forget()
        return found

    async def _see(
        self, connection: AsyncConnection, counts: Counts, runs: int, groups: Mapping[str, Range]
    ) -> None:
        """Have at least these counts of each group in memory, as the latest."""
        labels = tuple(counts.labels)
        fresh: dict[str, Range] = {}
        behind: dict[str, Range] = {}
        kept: dict[str, _Seen] = {}
        for name, asked in groups.items():
            seen = self._seen.pop((counts.definition, name), None)
            if (
                seen is None
                or (seen.runs, seen.labels) != (runs, labels)
                or not seen.since <= asked.since <= seen.to
            ):
                fresh[name] = asked
                continue
            kept[name] = seen
            if seen.to < asked.to:
                behind[name] = Range(seen.to, asked.to)
        for name, (since, found) in (await _read(connection, counts, fresh)).items():
            kept[name] = _Seen(runs, labels, since, found)
        for name, (_, found) in (await _read(connection, counts, behind)).items():
            seen, since = kept[name], groups[name].since
            kept[name] = seen._replace(
                since=since, counts=np.concatenate([seen.counts[since - seen.since :], found])
            )
        self._seen |= {(counts.definition, name): seen for name, seen in kept.items()}

    def _forget(self) -> None:
        """Let go of those that were asked for longest ago."""
        size = sum(seen.counts.size for seen in self._seen.values())
        for key in list(self._seen):
            if size <= self._cells:
                break
            size -= self._seen.pop(key).counts.size


def _ranges(counts: Counts, known: Mapping[str, Known], needed: Sequence[Need], start: int) -> dict[Need, Range]:
    """The buckets of each baseline for which enough was seen."""
    plan = counts.plan
    length = round(plan.baseline / plan.bucket)
    ranges: dict[Need, Range] = {}
    for name, until in needed:
        begun = -(-max(known[name].first, start) * plan.every // plan.bucket)
        to = int(until // plan.bucket)
        since = max(to - length, int(begun))
        if (to - since) * plan.bucket >= plan.least:
            ranges[name, until] = Range(since, to)
    return ranges


async def _read(
    connection: AsyncConnection, counts: Counts, groups: Mapping[str, Range]
) -> dict[str, tuple[int, NDArray[np.int32]]]:
    """Where each group's counts begin, and the counts [buckets, labels]; all of them are read over one range."""
    if not groups:
        return {}
    low, high = min(each.since for each in groups.values()), max(each.to for each in groups.values())
    per = round(counts.plan.bucket / counts.plan.every)
    label = {name: index for index, name in enumerate(counts.labels)}
    found = {name: np.zeros((high - low, len(label)), np.int32) for name in groups}
    bucket = (counters.c.bucket // per).label("coarse")
    value = sql_cast(func.sum(counts.value), BigInteger).label("value")
    names = sorted(groups)
    for at in range(0, len(names), _AT_ONCE):
        query = (
            select(counters.c.group, counters.c.label, bucket, value)
            .where(
                counters.c.definition == counts.definition,
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
    return {
        name: (groups[name].since, found[name][groups[name].since - low : groups[name].to - low]) for name in names
    }
