"""What a death says of the records that were in work; and a process that really dies, four times over."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import NOW, SHORT, news, only, opened, outage, place, rows, take

from pipeline.store import attempts as marks
from pipeline.store.attempts import Suspect, suspects
from pipeline.store.owners import Standing
from schemas.errors import DatabaseError
from schemas.events import Place
from schemas.tables import attempts, dead_letters, events, progress


def _standing(where: Place | None = None, unclean: bool = True) -> Standing:
    return Standing(where or place(), 100, 40, True, unclean)


async def test_a_partition_that_was_given_up_in_order_is_not_suspect(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        assert await suspects(pipeline.database, [_standing(unclean=False)], 1024) == {}
        assert await suspects(pipeline.database, [], 1024) == {}


async def test_the_first_death_leaves_all_that_may_have_been_in_work_under_suspicion(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        found = await suspects(pipeline.database, [_standing(), _standing(place("chat"), False)], 1024)
    assert found == {place(): Suspect(40, 1124, 1, False)}
    assert (found[place()].piece, found[place()].condemned) == (16, False)


async def test_a_death_over_a_piece_narrows_the_suspicion_to_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 48, 64, 2, NOW)
        found = await suspects(pipeline.database, [_standing()], 1024)
    assert found == {place(): Suspect(48, 64, 2, True)}
    assert (found[place()].piece, found[place()].condemned) == (1, False)


@pytest.mark.parametrize(
    ("until", "count", "condemned"), [(49, 2, False), (49, 3, True), (49, 4, True), (50, 3, False)]
)
async def test_a_single_record_is_condemned_after_three_deaths(
    database_url: str, until: int, count: int, condemned: bool
) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 48, until, count, NOW)
        [found] = (await suspects(pipeline.database, [_standing()], 1024)).values()
    assert found.condemned == condemned


async def test_a_mark_after_an_end_in_order_does_not_count_then_nor_later(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 48, 49, 3, NOW)
        assert await suspects(pipeline.database, [_standing(unclean=False)], 1024) == {}
        assert await rows(pipeline.database, attempts) == []


async def test_a_mark_of_records_that_are_through_says_nothing_of_a_later_death(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 39, 40, 3, NOW)
        assert await suspects(pipeline.database, [_standing()], 1024) == {place(): Suspect(40, 1124, 1, False)}
        assert await rows(pipeline.database, attempts) == []


async def test_a_partition_keeps_its_latest_mark_and_other_partitions_theirs(database_url: str) -> None:
    other = place(partition=1)
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 40, 56, 2, NOW)
        await marks.put(pipeline.database, other, 7, 8, 3, NOW)
        await marks.put(pipeline.database, place(), 56, 72, 2, NOW)
        assert await suspects(pipeline.database, [_standing()], 1024) == {place(): Suspect(56, 72, 2, True)}
        await marks.remove(pipeline.database, [place()])
        row = await only(pipeline.database, attempts)
        assert (row["partition"], row["first"], row["until"], row["attempts"]) == (1, 7, 8, 3)


async def test_a_mark_says_that_all_before_it_is_through_and_its_removal_that_it_is(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(offset) for offset in range(8)])
        published = []
        for first in (3, 5, 4):
            await marks.put(pipeline.database, place(), first, first + 1, 2, NOW)
            published.append((await only(pipeline.database, progress))["published"])
        await marks.pass_by(pipeline.database, place(), 6)
        assert [*published, (await only(pipeline.database, progress))["published"]] == [3, 5, 5, 6]
        assert await rows(pipeline.database, attempts) == []


async def test_a_database_that_is_away_is_told(database_url: str) -> None:
    async with opened(database_url, database=SHORT) as pipeline:
        with outage(pipeline.database, 1, "attempts"), pytest.raises(DatabaseError):
            await suspects(pipeline.database, [_standing()], 1024)


# A worker as far as it matters here: it takes a partition over, reads it from where the last one had come, and
# gives it up at its end. A text with KILL in it is a native crash.
DYING = """
import asyncio, os, resource, sys
from helpers import news, place, settings_for
from models.stub import StubScorer
from pipeline.compose import compose
from pipeline.deliver import MemoryOutlet
from pipeline.store import owners
from pipeline.store.attempts import suspects
from pipeline.times import now
from schemas.events import Chunk

class Scorer(StubScorer):
    def score(self, texts, stream, languages=None):
        if any("KILL" in text for text in texts):
            os.abort()
        return super().score(texts, stream, languages)

async def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    records = [news(offset, "KILL" if offset == 333 else "") for offset in range(600)]
    settings = settings_for(sys.argv[1])
    size, depth = settings.worker.chunk, settings.worker.chunks_in_work
    async with await compose(settings, scorer=Scorer()) as pipeline:
        [standing] = await owners.take(pipeline.database, [place()], str(os.getpid()), now(), {place(): 0})
        pipeline.caution.watch(await suspects(pipeline.database, [standing], size * depth))
        lane = pipeline.lane("news", MemoryOutlet())
        for start in range(standing.published, len(records), size):
            await lane.submit(Chunk(place(), records[start : start + size]), lambda applied: None)
        assert await lane.drain(60) and not lane.failed.done()
        await pipeline.flush()
        await owners.leave(pipeline.database, str(os.getpid()), [place()], now())

asyncio.run(main())
"""


async def test_a_process_that_really_dies_of_an_event_dies_three_times_and_no_more(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'salience.db'}"
    async with opened(url) as pipeline:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ends = []
        for _ in range(4):
            run = [sys.executable, "-c", DYING, url]
            ends.append(
                await asyncio.to_thread(subprocess.run, run, env=environment, capture_output=True, timeout=120)
            )
        assert [end.returncode for end in ends] == [-signal.SIGABRT] * 3 + [0], ends[-1].stderr
        letter = await only(pipeline.database, dead_letters)
        assert (letter["offset"], letter["reason"], letter["attempts"]) == (333, "poison", 3)
        assert letter["value"] == news(333, "KILL").value
        found = [row["offset"] for row in await rows(pipeline.database, events)]
        assert sorted(found) == [*range(333), *range(334, 600)]
        row = await only(pipeline.database, progress)
        assert (row["new"], row["repeated"], row["dead"], row["published"]) == (599, 0, 1, 600)
        assert await rows(pipeline.database, attempts) == []
