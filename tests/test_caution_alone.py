"""What is handled with care is alone in the process; whoever waits for it neither holds it up nor is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Clock, chat, news, opened, place, rows
from loops import finishes_at_once, settle

from pipeline.caution import Caution
from pipeline.deliver import MemoryOutlet
from pipeline.observe import Observer
from pipeline.store import attempts as marks
from pipeline.store.attempts import Suspect
from pipeline.turn import Turn
from pipeline.work import Applied
from schemas.events import Chunk, Line
from schemas.tables import progress


def lines(count: int) -> list[Line]:
    return [news(index) for index in range(count)]


class Stages:
    """A process whose chunks stop within until the test lets them go; keeps who is within."""

    def __init__(self) -> None:
        self.inside: list[tuple[str, int]] = []
        self._leave: dict[tuple[str, int], asyncio.Event] = {}

    async def __call__(self, chunk: Chunk, turn: Turn) -> Applied:
        name = (chunk.place.stream, chunk.records[0].offset)
        async with turn("score"), turn("store"), turn("deliver"):
            self.inside.append(name)
            try:
                await self._leave.setdefault(name, asyncio.Event()).wait()
            finally:
                self.inside.remove(name)
        return Applied(1, 0, [], [], [], until=chunk.records[-1].offset + 1)

    async def go(self, stream: str, *offsets: int) -> None:
        for offset in offsets:
            self._leave.setdefault((stream, offset), asyncio.Event()).set()
        await settle()


@pytest.fixture
def caution(monkeypatch: pytest.MonkeyPatch) -> Caution:
    """A caution whose marks go nowhere."""

    async def nothing(*_: Any, **__: Any) -> None:
        return

    for name in ("put", "pass_by", "remove"):
        monkeypatch.setattr(marks, name, nothing)
    return Caution(None, 1, Clock(), Observer())  # type: ignore[arg-type]


def _lanes(caution: Caution, stages: Stages) -> dict[str, Callable[[int, int], asyncio.Task[Applied]]]:
    """For each stream what takes a chunk of its partition in: [first, until), in their order."""
    last: dict[str, Turn] = {}

    def lane(stream: str) -> Callable[[int, int], asyncio.Task[Applied]]:
        def submit(first: int, until: int) -> asyncio.Task[Applied]:
            turn = last[stream] = Turn(last.get(stream))
            make = news if stream == "news" else chat
            chunk = Chunk(place(stream), [make(offset) for offset in range(first, until)])
            return asyncio.create_task(caution.process(stages, chunk, turn))

        return submit

    return {stream: lane(stream) for stream in ("news", "chat")}


def test_without_suspicion_a_chunk_goes_through_without_a_turn_of_the_loop(caution: Caution) -> None:
    async def process(chunk: Chunk, turn: Turn) -> Applied:
        return Applied(1, 0, [], [], [])

    assert finishes_at_once(caution.process(process, Chunk(place(), lines(1)), None))  # type: ignore[arg-type]


async def test_while_a_suspect_piece_is_in_work_nothing_else_of_the_process_is(caution: Caution) -> None:
    caution.watch({place(): Suspect(0, 32, 1, False)})
    stages = Stages()
    lanes = _lanes(caution, stages)
    before, careful, behind = lanes["chat"](0, 1), lanes["news"](0, 32), lanes["chat"](1, 2)
    await settle()
    assert stages.inside == [("chat", 0)]
    await stages.go("chat", 0)
    assert stages.inside == [("news", 0)]
    await stages.go("news", 0)
    assert stages.inside == [("news", 16)]
    await stages.go("news", 16)
    assert stages.inside == [("chat", 1)]
    await stages.go("chat", 1)
    assert [each.result().until for each in (before, careful, behind)] == [1, 32, 2]


async def test_chunks_behind_a_suspect_one_of_their_partition_wait_without_holding_it_up(caution: Caution) -> None:
    # The second chunk begins before the suspicion and ends behind it; the others are of no interest.
    caution.watch({place(): Suspect(12, 16, 1, False)})
    stages = Stages()
    lanes = _lanes(caution, stages)
    running = [lanes["news"](start, start + 10) for start in (0, 10, 20, 30)]
    await settle()
    for offset in (0, 10, 12, 16, 20, 30):
        assert stages.inside == [("news", offset)]
        await stages.go("news", offset)
    assert [each.result().until for each in running] == [10, 20, 30, 40]


@pytest.mark.parametrize("cancelled", ["waiting", "in work"])
async def test_a_suspect_chunk_that_is_cancelled_lets_the_others_on(caution: Caution, cancelled: str) -> None:
    caution.watch({place(): Suspect(0, 32, 1, False)})
    stages = Stages()
    lanes = _lanes(caution, stages)
    before, careful, behind = lanes["chat"](0, 1), lanes["news"](0, 32), lanes["chat"](1, 2)
    await stages.go("chat", *([0] if cancelled == "in work" else []))
    careful.cancel()
    await stages.go("chat", 0, 1)
    assert careful.cancelled()
    assert [each.result().until for each in (before, behind)] == [1, 2]


async def test_lanes_share_the_suspicion_and_are_back_to_overlapping_after_it(database_url: str) -> None:
    done: list[int] = []
    async with opened(database_url) as pipeline:
        pipeline.caution.watch({place(): Suspect(70, 130, 1, False)})
        lanes = [pipeline.lane("news", MemoryOutlet()), pipeline.lane("chat", MemoryOutlet())]
        for start in range(0, 300, 20):
            await lanes[0].submit(Chunk(place(), lines(300)[start : start + 20]), lambda a: done.append(a.until))
            await lanes[1].submit(Chunk(place("chat"), [chat(start)]), lambda applied: None)
        assert all([await lane.drain(30) for lane in lanes])
        assert [row["stored"] for row in await rows(pipeline.database, progress)] == [281, 300]
        assert pipeline.caution._watched == {}
    assert done == list(range(20, 301, 20))
