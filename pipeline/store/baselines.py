"""What is usual in each group: made from its counters, kept in memory, stored for whoever comes next."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, structs
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, ShareRule
from pipeline.store.histories import Histories
from pipeline.store.panels import Counts, Floats, Known
from pipeline.store.readings import Reading
from pipeline.surge.baseline import Baseline, fit
from pipeline.surge.groups import Need
from pipeline.surge.plans import plan_of
from pipeline.surge.share import ShareBaseline, fit_share
from schemas.counting import groups

Fitted = Baseline | ShareBaseline
# Definition, group, moment, attached back-fills, and the marks of a reading.
_Key = tuple[int, str, int, int, int, int]

# Baselines kept in memory beyond those that are just needed.
_KEPT = 20_000
# Groups whose counts are read at once, and baselines that are made in one transaction, a millisecond or two each.
_AT_ONCE = 200
MOST = 400


class Basis(Struct, frozen=True):
    """What baselines are of, beside group and moment: counters, attached back-fills, and how labels are read."""

    counts: Counts
    known: Mapping[str, Known]
    runs: int
    reading: Reading | None = None

    def key(self, need: Need) -> _Key:
        mark = (0, 0) if self.reading is None else self.reading.mark
        return self.counts.definition, *need, self.runs, *mark


class Baselines:
    """Baselines of all definitions."""

    def __init__(self, stored: bool = True, most: int | None = None) -> None:
        """most: how many are made at once; None for all that are needed."""
        self._stored = stored
        self._most = most
        self._kept: dict[_Key, Fitted | None] = {}
        self._histories = Histories()

    async def of(
        self, connection: AsyncConnection, basis: Basis, needed: Iterable[Need]
    ) -> dict[Need, Fitted | None] | None:
        """The baselines needed, each None where too little was seen; None while some are still to be made."""
        wanted = list(dict.fromkeys(needed))
        missing = [each for each in wanted if basis.key(each) not in self._kept]
        if missing:
            self._forget({basis.key(each) for each in wanted})
            await self._recall(connection, basis, missing)
            missing = [each for each in missing if basis.key(each) not in self._kept]
            await self._make(connection, basis, missing[: self._most])
            if self._most is not None and len(missing) > self._most:
                return None
        return {each: self._kept[basis.key(each)] for each in wanted}

    def _forget(self, wanted: set[_Key]) -> None:
        if len(self._kept) > _KEPT + len(wanted):
            self._kept = {key: fitted for key, fitted in self._kept.items() if key in wanted}

    async def _recall(self, connection: AsyncConnection, basis: Basis, missing: Sequence[Need]) -> None:
        known, number = basis.known, basis.counts.definition
        names = [name for name, until in missing if (known[name].until, known[name].runs) == (until, basis.runs)]
        for at in range(0, len(names), _AT_ONCE):
            query = select(groups.c.group, groups.c.fitted_until, groups.c.fitted).where(
                groups.c.definition == number, groups.c.group.in_(names[at : at + _AT_ONCE])
            )
            for row in await connection.execute(query):
                fitted = _read(row.fitted, basis.counts.rule)
                # That too little was seen by one bundle says nothing of another.
                if basis.reading and (
                    not isinstance(fitted, ShareBaseline) or (fitted.of, fitted.since) != basis.reading.mark
                ):
                    continue
                self._kept[basis.key((row.group, row.fitted_until))] = fitted

    async def _make(self, connection: AsyncConnection, basis: Basis, missing: Sequence[Need]) -> None:
        for at in range(0, len(missing), _AT_ONCE):
            part = missing[at : at + _AT_ONCE]
            start = basis.reading.since if basis.reading else 0
            seen = await self._histories.of(connection, basis.counts, basis.known, basis.runs, part, start)
            # Beside the loop: heartbeats must not wait for it.
            made = await asyncio.to_thread(_fitted, part, seen, basis.counts.rule, basis.reading)
            latest: dict[str, tuple[int, Fitted | None]] = {}
            for need, fitted in zip(part, made, strict=True):
                self._kept[basis.key(need)] = fitted
                if need[0] not in latest or need[1] > latest[need[0]][0]:
                    latest[need[0]] = need[1], fitted
            if self._stored:
                await _store(connection, basis.counts.definition, latest, basis.runs)


def _read(stored: object, rule: CountRule) -> Fitted | None:
    if stored is None:
        return None
    if isinstance(rule, ShareRule):
        return msgspec.convert(stored, ShareBaseline)
    return msgspec.convert(stored, Baseline)


def _fitted(
    needed: Sequence[Need],
    seen: Mapping[Need, tuple[Floats, float]],
    rule: CountRule,
    reading: Reading | None,
) -> list[Fitted | None]:
    plan = plan_of(rule)
    found: list[Fitted | None] = []
    for need in needed:
        if need not in seen:
            found.append(None)
            continue
        values, start = seen[need]
        if isinstance(rule, ShareRule) and reading is not None:
            share = fit_share(values, plan.bucket, plan.window, reading.confusion, rule.label)
            found.append(structs.replace(share, since=reading.since))
        else:
            found.append(fit(values[:, 0], start, plan.bucket, plan.window))
    return found


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
