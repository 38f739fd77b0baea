"""What baselines are made of is read once, and is what a reading of everything would give."""

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from day import day, rule, story
from helpers import EVENT_TIME, SECOND
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, RuleSet
from pipeline.store.histories import Histories
from pipeline.store.panels import Counts, Known
from pipeline.surge.groups import Need
from schemas.counting import counters, definitions

HOUR = 3_600
BEGIN = EVENT_TIME // SECOND
# Counts of one group's baseline: of an hour, by thirds of a minute, each of which has whole decisions.
CELLS = 180


class Kept(NamedTuple):
    """Two hours of two sources, counted."""

    connection: AsyncConnection
    counts: Counts
    known: dict[str, Known]

    async def read(
        self, histories: Histories, *needed: Need, runs: int = 0
    ) -> dict[Need, tuple[list[float], float]]:
        found = await histories.of(self.connection, self.counts, self.known, runs, needed)
        return {need: (values[:, 0].tolist(), start) for need, (values, start) in found.items()}

    async def grow(self) -> None:
        await self.connection.execute(update(counters).values(single=counters.c.single + 1))


@contextlib.asynccontextmanager
async def kept(database_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    asked = {name: value for name, value in rule(group_by="source").items() if name != "when"}
    [parsed] = RuleSet.of_content([asked]).rules
    assert isinstance(parsed, CountRule)
    async with day(database_url, tmp_path, asked) as today:
        for number, source in enumerate("ab"):
            moments = [at * (7.0 + number) + 1 for at in range(int(2 * HOUR / (7.0 + number)))]
            told = [(moment, story(number * 5_000 + at)) for at, moment in enumerate(moments)]
            await today.tell(*told, source=source)
        await today.reach(2 * HOUR)
        async with today.database.begin() as connection:
            number = (await connection.execute(select(definitions.c.id))).scalar_one()
            counts = Counts(number, parsed, 10 * SECOND)
            yield Kept(connection, counts, await counts.known(connection))


def needs(group: str, *minutes: int) -> Sequence[Need]:
    return [(group, BEGIN + 60 * each) for each in minutes]


async def test_in_whatever_order_baselines_are_asked_for_they_are_made_of_all_counts(
    database_url: str, tmp_path: Path
) -> None:
    rng = random.Random(3)
    async with kept(database_url, tmp_path) as of:
        histories = Histories(cells=3 * CELLS // 2)
        for _ in range(30):
            asked = [*needs("a", *rng.sample(range(20, 119), 2)), *needs("b", rng.randrange(20, 119))]
            rng.shuffle(asked)
            asked = asked[: rng.randint(1, 3)]
            assert await of.read(histories, *asked) == await of.read(Histories(), *asked)


async def test_counts_are_of_the_buckets_before_the_moment(database_url: str, tmp_path: Path) -> None:
    async with kept(database_url, tmp_path) as of:
        [need] = needs("a", 90)
        values, start = (await of.read(Histories(), need))[need]

    # One event every seven seconds, from the first second on.
    moments = [at * 7 + 1 for at in range(2 * HOUR)]
    size = of.counts.plan.bucket
    assert (start, len(values)) == (BEGIN + 1_800, HOUR / size)
    assert values == [
        sum(1_800 + at * size <= each < 1_800 + (at + 1) * size for each in moments) for at in range(len(values))
    ]


async def test_what_was_read_is_not_read_again(database_url: str, tmp_path: Path) -> None:
    first, second = needs("a", 80, 85)
    async with kept(database_url, tmp_path) as of:
        histories = Histories()
        before = await of.read(Histories(), second)
        await of.read(histories, first)
        gone = counters.c.bucket < (BEGIN + 80 * 60) // 10
        await of.connection.execute(delete(counters).where(gone))

        assert await of.read(histories, second) == before
        assert await of.read(Histories(), second) != before


async def test_a_back_fill_that_was_attached_is_read_with_all_the_rest(database_url: str, tmp_path: Path) -> None:
    [need] = needs("a", 90)
    async with kept(database_url, tmp_path) as of:
        histories = Histories()
        before = await of.read(histories, need)
        await of.grow()

        assert await of.read(histories, need) == before
        assert await of.read(histories, need, runs=1) == await of.read(Histories(), need) != before


@pytest.mark.parametrize(("cells", "again"), [(2 * CELLS, ""), (CELLS, "a"), (CELLS - 1, "ab")])
async def test_memory_is_bounded_and_what_was_asked_for_longest_ago_goes_first(
    cells: int, again: str, database_url: str, tmp_path: Path
) -> None:
    async with kept(database_url, tmp_path) as of:
        histories = Histories(cells)
        before = [await of.read(histories, *needs(group, 90)) for group in "ab"]
        await of.grow()
        after = [await of.read(histories, *needs(group, 90)) for group in "ba"][::-1]

    assert "".join(group for group, one, two in zip("ab", before, after, strict=True) if one != two) == again
