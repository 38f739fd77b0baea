"""An event that kills the process is found by three deaths and given up; it costs nobody else anything."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import structlog
from helpers import NOW, SHORT, Languages, news, only, opened, outage, place, rows
from sqlalchemy import event

from models.stub import StubScorer
from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.store import attempts as marks
from pipeline.store import owners
from pipeline.store.attempts import Suspect, suspects
from pipeline.turn import Turn
from pipeline.work import Applied
from schemas.errors import BrokerError, PoisonError
from schemas.events import Chunk, Line
from schemas.scores import Score
from schemas.tables import attempts, dead_letters, events, progress

CHUNK, IN_WORK = 64, 4
WINDOW = CHUNK * IN_WORK


class DeathError(BaseException):
    """Stands for the end of the process: nothing of ours runs any more, and nothing is put in order."""


class DeadlyScorer(StubScorer):
    """Ends the process when it reads what kills it."""

    def __init__(self, *deadly: int) -> None:
        super().__init__()
        self._deadly = {f"shares rise {offset}" for offset in deadly}

    def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
        if self._deadly.intersection(texts):
            raise DeathError
        return super().score(texts, stream, languages)


class Lives:
    """One worker after the other reads the same partition, each until its end."""

    def __init__(self, url: str, records: Sequence[Line]) -> None:
        self.url = url
        self.records = records
        self.count = 0
        self.outlet = MemoryOutlet()

    async def one(self, *deadly: int, deadline: float = 5.0) -> BaseException | None:
        """What it ended of; None when it came to the end of the partition and gave it up in order."""
        self.count += 1
        database = {"outage_deadline": deadline}
        async with opened(self.url, scorer=DeadlyScorer(*deadly), database=database) as pipeline:
            return await self._read(pipeline)

    async def _read(self, pipeline: Pipeline) -> BaseException | None:
        name = f"worker-{self.count}"
        [standing] = await owners.take(pipeline.database, [place()], name, NOW, {place(): self.records[0].offset})
        pipeline.caution.watch(await suspects(pipeline.database, [standing], WINDOW))
        lane = pipeline.lane("news", self.outlet)
        left = [record for record in self.records if record.offset >= standing.published]
        for start in range(0, len(left), CHUNK):
            await lane.submit(Chunk(place(), left[start : start + CHUNK]), lambda applied: None)
        assert await lane.drain(30)
        error = lane.failed.result() if lane.failed.done() else None
        if not isinstance(error, DeathError):
            await pipeline.flush()
            await owners.leave(pipeline.database, name, [place()], NOW)
        return error

    async def until_the_end(self, *deadly: int) -> int:
        """How many died before one came through."""
        for deaths in range(10):
            if await self.one(*deadly) is None:
                return deaths
        raise AssertionError("they die and die")

    async def check(self, *dead: int) -> None:
        """Everything was stored exactly once but these, which are dead letters."""
        async with opened(self.url) as pipeline:
            letters = await rows(pipeline.database, dead_letters)
            assert sorted(letter["offset"] for letter in letters) == sorted(dead)
            found = sorted(row["offset"] for row in await rows(pipeline.database, events))
            assert found == [record.offset for record in self.records if record.offset not in dead]
            row = await only(pipeline.database, progress)
            assert (row["new"], row["repeated"], row["dead"]) == (len(found), 0, len(dead))
            assert await rows(pipeline.database, attempts) == []


def _news(count: int) -> list[Line]:
    return [news(index) for index in range(count)]


@pytest.mark.parametrize("culprit", [0, 15, 77, 299])
async def test_an_event_that_kills_goes_to_the_dead_letters_after_three_deaths(
    database_url: str, culprit: int
) -> None:
    lives = Lives(database_url, _news(300))
    assert await lives.until_the_end(culprit) == 3
    await lives.check(culprit)
    async with opened(database_url) as pipeline:
        letter = await only(pipeline.database, dead_letters)
    assert (letter["stage"], letter["reason"], letter["exception"]) == ("process", "poison", "PoisonError")
    assert (letter["attempts"], letter["value"]) == (3, lives.records[culprit].value)
    assert letter["message"].startswith(
        f"the process died 3 times with t.news partition 0 offset {culprit} in work, the last time with nothing"
    )
    assert (PoisonError.reason, PoisonError.stage) == ("poison", "process")
    [message] = lives.outlet.dead
    assert (message.value, dict(message.headers)["salience-attempts"]) == (lives.records[culprit].value, b"3")


async def test_an_event_whose_decoding_kills_is_not_decoded_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = "pipeline.decode.Decoder.decode"
    plain = __import__("pipeline.decode", fromlist=["Decoder"]).Decoder.decode

    def deadly(decoder: Any, record: Line) -> Any:
        if record.offset == 77:
            raise DeathError
        return plain(decoder, record)

    monkeypatch.setattr(decode, deadly)
    lives = Lives(database_url, _news(200))
    assert await lives.until_the_end() == 3
    await lives.check(77)


@pytest.mark.parametrize("culprits", [(40, 41), (40, 200), (3, 298)])
async def test_two_events_that_kill_are_both_found(database_url: str, culprits: tuple[int, int]) -> None:
    lives = Lives(database_url, _news(300))
    assert await lives.until_the_end(*culprits) <= 6
    await lives.check(*culprits)


async def test_a_partition_with_gaps_in_its_offsets_is_searched_as_well(database_url: str) -> None:
    lives = Lives(database_url, [news(7 + index * 9) for index in range(300)])
    await lives.until_the_end(7 + 290 * 9)
    await lives.check(7 + 290 * 9)


async def test_kills_at_different_places_give_up_nobody(database_url: str) -> None:
    lives = Lives(database_url, _news(400))
    # In turn: with many in work, with a piece, behind that piece with many, with a piece, ...
    for offset in (5, 20, 100, 130, 230, 260, 390):
        assert isinstance(await lives.one(offset), DeathError)
    assert await lives.one() is None
    await lives.check()


async def test_a_worker_that_outlives_a_piece_is_soon_back_to_normal(database_url: str) -> None:
    lives = Lives(database_url, _news(400))
    await lives.one(5)
    async with opened(database_url) as pipeline:
        await lives._read(pipeline)
        assert pipeline.caution._watched == {}
    await lives.check()


async def test_an_outage_that_ends_a_careful_worker_in_order_blames_nobody(database_url: str) -> None:
    lives = Lives(database_url, _news(100))
    for _ in range(4):
        assert isinstance(await lives.one(5), DeathError)
        lives.outlet.fail = [BrokerError("away")] * 10_000
        assert isinstance(await lives.one(deadline=0.05), BrokerError)
        lives.outlet.fail = []
        async with opened(database_url) as pipeline:
            assert await rows(pipeline.database, attempts) == []
    await lives.one()
    await lives.check()


async def _careful(
    pipeline: Pipeline, process: Callable[[Chunk, Turn], Awaitable[Applied]], suspect: Suspect, size: int = 100
) -> Applied:
    """A chunk from offset 0 on through a caution of this suspicion."""
    pipeline.caution.watch({place(): suspect})
    return await pipeline.caution.process(process, Chunk(place(), _news(size)), Turn())


class Recorder:
    """A process that keeps what it was given, and what stood in the table meanwhile."""

    def __init__(self, pipeline: Pipeline, error: BaseException | None = None) -> None:
        self.given: list[tuple[int, int, Any]] = []
        self._database = pipeline.database
        self._error = error

    async def __call__(self, chunk: Chunk, turn: Turn) -> Applied:
        found = [(row["first"], row["until"], row["attempts"]) for row in await rows(self._database, attempts)]
        first, until = chunk.records[0].offset, chunk.records[-1].offset + 1
        self.given.append((first, until, found[0] if found else None))
        if self._error is not None:
            raise self._error
        return Applied(until - first, 0, [], [], [], until=until, timed=first == 0)


async def test_a_chunk_is_cut_into_what_is_before_within_and_behind_the_suspicion(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        process = Recorder(pipeline)
        applied = await _careful(pipeline, process, Suspect(30, 70, 1, False))
        assert process.given == [
            (0, 30, None),
            (30, 46, (30, 46, 2)),
            (46, 62, (46, 62, 2)),
            (62, 70, (62, 70, 2)),
            (70, 100, None),
        ]
        assert (applied.new, applied.until, applied.timed) == (100, 100, True)
        assert await rows(pipeline.database, attempts) == []


async def test_a_chunk_that_ends_within_the_suspicion_leaves_no_mark(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        process = Recorder(pipeline)
        await _careful(pipeline, process, Suspect(90, 200, 1, False))
        assert process.given == [(0, 90, None), (90, 100, (90, 100, 2))]
        assert await rows(pipeline.database, attempts) == []
        await pipeline.caution.process(process, Chunk(place(), _news(110)[100:]), Turn())
        assert process.given[2:] == [(100, 110, (100, 110, 2))]


async def test_a_piece_that_was_in_work_at_a_death_is_handled_one_by_one(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 30, 33, 2, NOW)
        process = Recorder(pipeline)
        await _careful(pipeline, process, Suspect(30, 33, 2, True))
        singles = [(at, at + 1, (at, at + 1, 3)) for at in (30, 31, 32)]
        assert process.given == [(0, 30, None), *singles, (33, 100, None)]


async def test_what_lies_before_a_marked_record_dies_without_blaming_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 200, 201, 3, NOW)
        process = Recorder(pipeline, DeathError())
        with pytest.raises(DeathError):
            await _careful(pipeline, process, Suspect(200, 201, 3, True))
        assert process.given == [(0, 100, None)]


async def test_the_mark_of_a_record_that_is_no_longer_there_goes_with_the_first_chunk_behind_it(
    database_url: str,
) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 0, 1, 3, NOW)
        pipeline.caution.watch({place(): Suspect(0, 1, 3, True)})
        process = Recorder(pipeline)
        await pipeline.caution.process(process, Chunk(place(), _news(9)[5:]), Turn())
        assert process.given == [(5, 9, None)]
        assert pipeline.caution._watched == {}


async def test_the_mark_of_a_condemned_record_stays_until_it_is_a_dead_letter(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await marks.put(pipeline.database, place(), 0, 1, 3, NOW)
        for error in (DeathError(), asyncio.CancelledError(), BrokerError("away")):
            process = Recorder(pipeline, error)
            with pytest.raises(type(error)):
                await _careful(pipeline, process, Suspect(0, 1, 3, True))
            assert process.given == [(0, 1, (0, 1, 3))]
        assert len(await rows(pipeline.database, attempts)) == 1


@pytest.mark.parametrize("error", [BrokerError("away"), asyncio.CancelledError()], ids=repr)
async def test_a_piece_that_ends_in_order_takes_its_mark_with_it(database_url: str, error: BaseException) -> None:
    async with opened(database_url) as pipeline:
        process = Recorder(pipeline, error)
        with pytest.raises(type(error)):
            await _careful(pipeline, process, Suspect(0, 70, 1, False))
        assert process.given == [(0, 16, (0, 16, 2))]
        assert await rows(pipeline.database, attempts) == []


@pytest.mark.parametrize("error", [MemoryError(), LookupError("bug")], ids=repr)
async def test_what_nobody_foresaw_counts_as_a_death(database_url: str, error: Exception) -> None:
    async with opened(database_url) as pipeline:
        with pytest.raises(type(error)):
            await _careful(pipeline, Recorder(pipeline, error), Suspect(0, 70, 1, False))
        assert len(await rows(pipeline.database, attempts)) == 1


async def test_a_mark_that_cannot_be_removed_does_not_hide_why_the_work_ended(database_url: str) -> None:
    async with opened(database_url, database=SHORT) as pipeline:
        with (
            outage(pipeline.database, 10_000, "DELETE FROM attempts") as failed,
            pytest.raises(BrokerError, match="away"),
        ):
            await _careful(pipeline, Recorder(pipeline, BrokerError("away")), Suspect(0, 70, 1, False))
        assert len(failed) == 1


@pytest.mark.parametrize("statement", ["INTO attempts", "DELETE FROM attempts"])
async def test_a_database_that_goes_away_at_a_mark_is_waited_for(database_url: str, statement: str) -> None:
    async with opened(database_url) as pipeline:
        process = Recorder(pipeline)
        with outage(pipeline.database, 3, statement) as failed:
            applied = await _careful(pipeline, process, Suspect(0, 16, 1, False))
        assert (len(failed), applied.new, len(process.given)) == (3, 100, 2)


async def test_without_a_death_nothing_is_read_or_written_of_attempts(database_url: str) -> None:
    asked: list[str] = []

    def look(_c: Any, _r: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    async with opened(database_url) as pipeline:
        event.listen(pipeline.database.engine.sync_engine, "before_cursor_execute", look)
        lane = pipeline.lane("news", MemoryOutlet())
        for start in range(0, 100, 10):
            await lane.submit(Chunk(place(), _news(100)[start : start + 10]), lambda applied: None)
        assert await lane.drain(30)
    assert asked
    assert [each for each in asked if re.search(r'(FROM|INTO|UPDATE) "?attempts\b', each)] == []


async def test_one_warning_a_partition_says_what_is_handled_with_care(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        pipeline.caution.watch({place(): Suspect(10, 60, 1, False), place(partition=1): Suspect(0, 9, 1, False)})
        with structlog.testing.capture_logs() as logged:
            for start in range(0, 100, 20):
                chunk = Chunk(place(), _news(100)[start : start + 20])
                await pipeline.caution.process(Recorder(pipeline), chunk, Turn())
    told = {"reason": "unclean_exit", "topic": "t.news", "partition": 0, "from": 10, "until": 60, "attempts": 1}
    [entry] = logged
    assert entry["log_level"] == "warning"
    assert entry.items() >= told.items()


async def test_what_is_forgotten_is_handled_as_usual(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        process = Recorder(pipeline)
        pipeline.caution.watch({place(): Suspect(0, 70, 1, False)})
        pipeline.caution.forget()
        await pipeline.caution.process(process, Chunk(place(), _news(100)), Turn())
        assert process.given == [(0, 100, None)]
