"""When a partition has fallen idle: its owner reads on, and finds nothing that moves time."""

from collections.abc import AsyncIterator

import pytest
from assigned import ONE, TOPIC, worker
from helpers import NOW, SECOND, Clock, opened

from pipeline.assignment import Assignment, Reading
from pipeline.compose import Pipeline
from pipeline.watermark import IDLE
from schemas.events import Place


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pipeline(database_url: str, clock: Clock) -> AsyncIterator[Pipeline]:
    async with opened(database_url, clock=clock) as pipeline:
        yield pipeline


class Idleness:
    """One partition that is read, and what the broker last answered."""

    def __init__(self, assignment: Assignment, clock: Clock) -> None:
        self.assignment = assignment
        self.clock = clock
        assignment.reading[ONE] = Reading(Place("news", "c", TOPIC, "first", 0), 0, 0, clock())

    def after(self, microseconds: int, answered: bool = True) -> list[int]:
        self.clock.now += microseconds
        stamp = self.clock() if answered else self.clock() - microseconds
        return list(self.assignment.idle(lambda _: stamp).values())


@pytest.fixture
def idleness(pipeline: Pipeline, clock: Clock) -> Idleness:
    return Idleness(worker(pipeline, clock), clock)


async def test_a_partition_that_gives_nothing_for_a_while_is_idle(idleness: Idleness) -> None:
    assert idleness.after(IDLE - 1) == []
    assert idleness.after(1) == [0]


async def test_a_partition_whose_chunk_is_in_work_is_not_idle(idleness: Idleness) -> None:
    idleness.assignment.handed_over(ONE, 5, NOW)
    assert idleness.after(IDLE) == []
    idleness.assignment.applied(ONE, 5, True)
    assert idleness.after(IDLE) == [5]


async def test_a_broker_that_does_not_answer_makes_nothing_idle(idleness: Idleness) -> None:
    assert idleness.after(IDLE, answered=False) == []


async def test_a_partition_that_is_behind_is_not_idle(idleness: Idleness, clock: Clock) -> None:
    clock.now += IDLE
    idleness.assignment.handed_over(ONE, 5, clock() - 3_600 * SECOND)
    idleness.assignment.applied(ONE, 5, False)
    assert idleness.after(0) == []


async def test_a_partition_that_gives_only_what_moves_no_time_is_idle(idleness: Idleness, clock: Clock) -> None:
    clock.now += IDLE
    idleness.assignment.handed_over(ONE, 5, clock())
    idleness.assignment.applied(ONE, 5, False)
    assert idleness.after(0) == [5]


async def test_a_busy_partition_that_never_moves_time_is_idle(idleness: Idleness, clock: Clock) -> None:
    clock.now += IDLE
    idleness.assignment.applied(ONE, 5, False)
    idleness.assignment.handed_over(ONE, 9, clock())
    assert idleness.after(0) == [5]
