"""Chunks of a stream overlap, stay in order, and are acknowledged in order or not at all."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from helpers import Clock, Languages, news, opened, place, rows, take

from models.stub import StubScorer
from pipeline.caution import Caution
from pipeline.deliver import MemoryOutlet
from pipeline.lane import Lane
from pipeline.observe import Observer
from pipeline.store.chunks import React
from pipeline.turn import Turn
from pipeline.work import Applied, Message, Outgoing, Work
from schemas.errors import BrokerError, DatabaseError
from schemas.events import Chunk, Place
from schemas.scores import Score
from schemas.tables import events, progress


def _chunk(number: int, size: int = 1) -> Chunk:
    return Chunk(place(), [news(number * size + index) for index in range(size)])


class Gates:
    """A flow whose chunks stand before each stage until the test opens it; keeps who entered what."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, int]] = []
        self._events: dict[tuple[str, str, int], asyncio.Event] = {}
        self.fail: set[tuple[str, int]] = set()

    def _event(self, kind: str, stage: str, number: int) -> asyncio.Event:
        return self._events.setdefault((kind, stage, number), asyncio.Event())

    def open(self, stage: str, *numbers: int) -> None:
        for number in numbers:
            self._event("open", stage, number).set()

    def open_all(self, *numbers: int) -> None:
        for stage in ("score", "store", "deliver"):
            self.open(stage, *numbers)

    async def reached(self, stage: str, number: int) -> None:
        await asyncio.wait_for(self._event("reached", stage, number).wait(), 10)

    async def process(self, chunk: Chunk, turn: Turn) -> Applied:
        number = chunk.records[0].offset
        for stage in ("score", "store", "deliver"):
            async with turn(stage):
                self.entered.append((stage, number))
                self._event("reached", stage, number).set()
                await self._event("open", stage, number).wait()
                if (stage, number) in self.fail:
                    raise DatabaseError(f"{stage} {number}")
        return Applied(1, 0, [], [], [], until=number + 1)


class Acknowledged:
    """Keeps the offsets that were acknowledged."""

    def __init__(self) -> None:
        self.untils: list[int] = []

    def __call__(self, applied: Applied) -> None:
        self.untils.append(applied.until)


def _lane(gates: Gates, depth: int = 4) -> Lane:
    observer = Observer()
    return Lane(gates, depth, observer, Caution(None, 1, Clock(), observer))  # type: ignore[arg-type]


async def test_a_chunk_that_is_slow_to_deliver_does_not_hold_up_the_next_ones_scoring() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    for number in range(3):
        await lane.submit(_chunk(number), done)
    gates.open("score", 0, 1)
    gates.open("store", 0)
    await gates.reached("deliver", 0)
    await gates.reached("store", 1)
    await gates.reached("score", 2)
    gates.open_all(0, 1, 2)
    assert await lane.drain(10)
    assert done.untils == [1, 2, 3]


async def test_a_stage_holds_one_chunk_at_a_time_in_the_order_of_submission() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    gates.open_all(1, 2, 3)
    for number in range(4):
        await lane.submit(_chunk(number), done)
    await gates.reached("score", 0)
    assert gates.entered == [("score", 0)]
    gates.open_all(0)
    assert await lane.drain(10)
    for stage in ("score", "store", "deliver"):
        assert [number for name, number in gates.entered if name == stage] == [0, 1, 2, 3]


async def test_a_later_chunk_waits_with_its_acknowledgement() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    gates.open_all(1)
    gates.open("score", 0)
    gates.open("store", 0)
    await lane.submit(_chunk(0), done)
    await lane.submit(_chunk(1), done)
    await gates.reached("deliver", 0)
    await gates.reached("store", 1)
    assert done.untils == []
    gates.open("deliver", 0)
    assert await lane.drain(10)
    assert done.untils == [1, 2]


async def test_no_more_chunks_are_in_work_than_allowed() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates, depth=2)
    await lane.submit(_chunk(0), done)
    await lane.submit(_chunk(1), done)
    third = asyncio.create_task(lane.submit(_chunk(2), done))
    gates.open("score", 0)
    gates.open("store", 0)
    await gates.reached("deliver", 0)
    await gates.reached("score", 1)
    assert not third.done()
    gates.open("deliver", 0)
    await asyncio.wait_for(third, 10)
    assert done.untils == [1]
    gates.open_all(1, 2)
    assert await lane.drain(10)


@pytest.mark.parametrize("stage", ["score", "store", "deliver"])
async def test_after_a_failure_no_later_chunk_is_acknowledged(stage: str) -> None:
    gates, done = Gates(), Acknowledged()
    gates.fail = {(stage, 1)}
    gates.open_all(0, 1, 2, 3)
    lane = _lane(gates)
    for number in range(4):
        await lane.submit(_chunk(number), done)
    assert await lane.drain(10)
    assert done.untils == [1]
    assert str(lane.failed.result()) == f"{stage} 1"
    assert (stage, 2) not in gates.entered


async def test_an_earlier_chunk_is_acknowledged_although_a_later_one_failed() -> None:
    gates, done = Gates(), Acknowledged()
    gates.fail = {("score", 1)}
    gates.open("score", 0, 1)
    gates.open("store", 0)
    lane = _lane(gates)
    await lane.submit(_chunk(0), done)
    await lane.submit(_chunk(1), done)
    await asyncio.wait_for(asyncio.shield(lane.failed), 10)
    assert done.untils == []
    gates.open("deliver", 0)
    assert await lane.drain(10)
    assert done.untils == [1]


async def test_after_a_failure_nothing_is_taken() -> None:
    gates, done = Gates(), Acknowledged()
    gates.fail = {("score", 0)}
    gates.open_all(0, 1)
    lane = _lane(gates, depth=1)
    await lane.submit(_chunk(0), done)
    for _ in range(3):
        await asyncio.wait_for(lane.submit(_chunk(1), done), 10)
    assert await lane.drain(10)
    assert gates.entered == [("score", 0)]


async def test_an_acknowledgement_that_fails_stops_the_lane() -> None:
    gates = Gates()
    gates.open_all(0, 1)
    lane = _lane(gates)

    def fail(applied: Applied) -> None:
        raise LookupError("no such partition")

    done = Acknowledged()
    await lane.submit(_chunk(0), fail)
    await lane.submit(_chunk(1), done)
    assert await lane.drain(10)
    assert isinstance(lane.failed.result(), LookupError)
    assert done.untils == []


async def test_cancelling_whoever_submits_does_not_cancel_the_work() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates, depth=1)

    async def read() -> None:
        for number in range(9):
            await lane.submit(_chunk(number), done)

    reader = asyncio.create_task(read())
    await gates.reached("score", 0)
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    gates.open_all(*range(9))
    assert await lane.drain(10)
    assert done.untils == [1]


async def test_a_drain_ends_with_its_deadline_and_says_so() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    await lane.submit(_chunk(0), done)
    assert not await lane.drain(0.01)
    gates.open_all(0)
    assert await lane.drain(10)
    assert done.untils == [1]


async def test_a_lane_without_work_is_drained_at_once() -> None:
    assert await _lane(Gates()).drain(0)


async def test_what_is_abandoned_is_not_acknowledged() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    await lane.submit(_chunk(0), done)
    await lane.submit(_chunk(1), done)
    await gates.reached("score", 0)
    await lane.clear()
    assert await lane.drain(10)
    assert done.untils == []
    assert not lane.failed.done()


async def test_a_chunk_whose_partition_has_gone_meanwhile_is_dropped() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates)
    await lane.submit(_chunk(0), done, lambda: False)
    assert await lane.drain(0)
    assert done.untils == []


class SlowOutlet(MemoryOutlet):
    """Sends the first chunk when it is told to, the others at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def send(
        self, place: Place, scored: Sequence[Outgoing], dead: Sequence[Message], messages: Sequence[Message]
    ) -> None:
        if scored[0].id == "n0":
            await self.go.wait()
        await super().send(place, scored, dead, messages)


class TellingScorer(StubScorer):
    """Tells when a text is scored."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self.asked = asyncio.Event()

    def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
        if self._wanted in texts:
            self._loop.call_soon_threadsafe(self.asked.set)
        return super().score(texts, stream, languages)


async def test_the_real_flow_scores_and_stores_later_chunks_while_one_is_delivered(database_url: str) -> None:
    outlet, done, scorer = SlowOutlet(), Acknowledged(), TellingScorer("shares rise 5")
    stored = asyncio.Event()
    async with opened(database_url, scorer=scorer) as pipeline:
        apply = pipeline._store.apply

        async def tell(work: Work, react: React) -> Applied:
            applied = await apply(work, react)
            if applied.until == 6:
                stored.set()
            return applied

        pipeline._store.apply = tell  # type: ignore[method-assign]
        lane = pipeline.lane("news", outlet)
        for number in range(3):
            await lane.submit(_chunk(number, 2), done)
        await asyncio.wait_for(scorer.asked.wait(), 10)
        await asyncio.wait_for(stored.wait(), 10)
        assert (outlet.scored, done.untils) == ([], [])
        outlet.go.set()
        assert await lane.drain(10)
    assert [each.id for each in outlet.scored] == [f"n{index}" for index in range(6)]
    assert done.untils == [2, 4, 6]


async def test_chunks_behind_one_that_could_not_be_delivered_come_again_whole(
    database_url: str,
) -> None:
    outlet, done = MemoryOutlet(), Acknowledged()
    outlet.fail = [BrokerError("away")] * 10_000
    async with opened(database_url, database={"outage_deadline": 0.05}) as pipeline:
        lane = pipeline.lane("news", outlet)
        for number in range(3):
            await lane.submit(_chunk(number, 2), done)
        assert await lane.drain(10)
        assert isinstance(lane.failed.result(), BrokerError)
        assert (done.untils, outlet.scored) == ([], [])
    outlet.fail = []
    async with opened(database_url) as pipeline:
        for number in range(3):
            await take(pipeline, _chunk(number, 2).records, outlet)
        await pipeline.flush()
        assert len(await rows(pipeline.database, events)) == 6
        [row] = await rows(pipeline.database, progress)
        assert (row["new"], row["repeated"], row["stored"], row["published"]) == (6, 0, 6, 6)
    assert [each.id for each in outlet.scored] == [f"n{index}" for index in range(6)]


async def test_a_held_lane_finishes_what_is_in_work_and_takes_nothing_in() -> None:
    gates, done = Gates(), Acknowledged()
    lane = _lane(gates, 2)
    await lane.submit(_chunk(0), done)
    lane.hold()
    waiting = asyncio.create_task(lane.submit(_chunk(1), done))
    gates.open_all(0, 1)
    assert await lane.drain(10)
    assert done.untils == [1]
    lane.go_on()
    await waiting
    assert await lane.drain(10)
    assert done.untils == [1, 2]
