"""Where a worker begins to read, and when it refuses to."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from assigned import ONE, TOPIC, worker
from helpers import NOW, SECOND, Clock, news, opened, rows, take
from sqlalchemy import update

from pipeline import assignment as module
from pipeline.admin import TopicInfo
from pipeline.assignment import Assignment, Partition
from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.store import ticks
from pipeline.watermark import HOLD, IDLE
from schemas.errors import BrokerError, ContradictionError
from schemas.events import Chunk, Place
from schemas.tables import events, owners, progress


class Broker:
    """What the broker says of its topics."""

    def __init__(self) -> None:
        self.incarnation = "first"
        self.partitions = 2
        self.begins: dict[Partition, int] = {}
        self.ends: dict[Partition, int] = {}

    def look(self, *_: Any) -> tuple[str, dict[str, TopicInfo]]:
        found = {TOPIC: TopicInfo(TOPIC, self.partitions, 1, self.incarnation)}
        return "c", found if self.partitions else {}

    async def first(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {each: self.begins.get(each, 0) for each in partitions}

    async def last(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {each: self.ends.get(each, 0) for each in partitions}

    def place(self, partition: int = 0) -> Place:
        return Place("news", "c", TOPIC, self.incarnation, partition)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(module, "look", broker.look)
    return broker


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pipeline(database_url: str, clock: Clock) -> AsyncIterator[Pipeline]:
    async with opened(database_url, clock=clock) as pipeline:
        yield pipeline


async def begin(assignment: Assignment, broker: Broker, *partitions: Partition) -> dict[Partition, int]:
    return await assignment.begin(partitions or [ONE], broker.first, broker.last)


async def test_a_partition_that_was_never_read_begins_at_its_beginning(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    broker.begins[ONE] = 7
    assert await begin(worker(pipeline, clock), broker) == {ONE: 7}


async def test_reading_begins_at_what_the_broker_has_confirmed(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await take(pipeline, [news(0), news(1)], where=broker.place())
    await pipeline.flush()
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("the process ends here")]
    with pytest.raises(RuntimeError):
        await take(pipeline, [news(2)], outlet, where=broker.place())
    assert await begin(worker(pipeline, clock), broker) == {ONE: 2}


async def test_a_database_from_a_backup_reads_again_what_it_lacks(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await take(pipeline, [news(0), news(1)], where=broker.place())
    await pipeline.flush()
    async with pipeline.database.begin() as connection:
        await connection.execute(update(progress).values(stored=1, published=1))
        await connection.execute(events.delete().where(events.c.event_id == "n1"))
    assert await begin(worker(pipeline, clock), broker) == {ONE: 1}
    applied = await take(pipeline, [news(1)], where=broker.place())
    assert (applied.new, applied.repeated) == (1, 0)


async def test_latest_begins_at_the_end_of_a_topic_that_was_never_read(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    broker.ends[ONE] = 40
    assert await begin(worker(pipeline, clock, reset="latest"), broker) == {ONE: 40}
    # Written down: a worker that dies before its first chunk has not moved it.
    broker.ends[ONE] = 50
    assert await begin(worker(pipeline, clock, reset="latest"), broker) == {ONE: 40}


async def test_latest_reads_a_partition_that_was_added_from_its_beginning(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    two = (TOPIC, 1)
    broker.ends |= {ONE: 40, two: 5}
    broker.partitions = 1
    await begin(worker(pipeline, clock, reset="latest"), broker)
    broker.partitions = 2
    assert await begin(worker(pipeline, clock, reset="latest"), broker, ONE, two) == {ONE: 40, two: 0}


async def test_latest_begins_at_the_end_for_whoever_comes_second(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    two = (TOPIC, 1)
    broker.ends |= {ONE: 40, two: 5}
    await begin(worker(pipeline, clock, "one", reset="latest"), broker, ONE)
    assert await begin(worker(pipeline, clock, "two", reset="latest"), broker, two) == {two: 5}


async def test_a_topic_that_was_made_again_is_refused(pipeline: Pipeline, broker: Broker, clock: Clock) -> None:
    await take(pipeline, [news(0)], where=broker.place())
    broker.incarnation = "second"
    with pytest.raises(ContradictionError, match=r"salience\.news .* made again.*topics accept"):
        await begin(worker(pipeline, clock), broker)


async def test_a_topic_that_is_made_again_while_it_is_read_is_noticed(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    assignment = worker(pipeline, clock)
    await begin(assignment, broker)
    await assignment.check()
    broker.incarnation = "second"
    with pytest.raises(ContradictionError, match="made again"):
        await assignment.check()


async def test_a_topic_that_has_gone_is_named(pipeline: Pipeline, broker: Broker, clock: Clock) -> None:
    broker.partitions = 0
    with pytest.raises(BrokerError, match=r"no topic salience\.news.*topics create"):
        await begin(worker(pipeline, clock), broker)


async def test_records_that_went_before_they_were_read_are_refused(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await take(pipeline, [news(0), news(1)], where=broker.place())
    broker.begins[ONE] = 5
    with pytest.raises(ContradictionError, match=r"begins at offset 5 .* before 2 is stored: 3 records"):
        await begin(worker(pipeline, clock), broker)


async def test_a_partition_that_nobody_has_read_so_far_holds_the_time_of_its_stream(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await begin(worker(pipeline, clock), broker)
    await take(pipeline, [news(0)], where=broker.place())
    tick = pipeline.instance.tick
    held = await ticks.close(pipeline.database, tick, "news", TOPIC, clock())
    assert held.waits_for == [1]
    assert held.last < held.first
    await begin(worker(pipeline, clock, "other"), broker, (TOPIC, 1))
    assert (await ticks.close(pipeline.database, tick, "news", TOPIC, clock())).waits_for == [1]
    await take(pipeline, [news(1)], where=broker.place(1))
    closed = await ticks.close(pipeline.database, tick, "news", TOPIC, clock())
    assert closed.last >= closed.first


async def test_after_a_long_night_who_starts_first_waits_for_the_others(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    one, two = worker(pipeline, clock, "one"), worker(pipeline, clock, "two")
    await begin(one, broker, ONE)
    await begin(two, broker, (TOPIC, 1))
    await take(pipeline, [news(0)], where=broker.place())
    for each in (one, two):
        await each.end(in_order=True)
    clock.now += 10 * HOLD
    await begin(one, broker, ONE)
    held = await ticks.close(pipeline.database, pipeline.instance.tick, "news", TOPIC, clock())
    assert held.waits_for == [1]


async def test_a_partition_that_was_put_back_can_fall_idle(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await take(pipeline, [news(0), news(1), news(2)], where=broker.place())
    await module.owners.go_on_at(pipeline.database, broker.place(), 1, clock())
    (row,) = await rows(pipeline.database, progress)
    assert (row["stored"], row["published"], row["timed"]) == (1, 1, 1)


async def test_a_refusal_takes_no_partition(pipeline: Pipeline, broker: Broker, clock: Clock) -> None:
    await take(pipeline, [news(0)], where=broker.place())
    broker.begins[ONE] = 5
    with pytest.raises(ContradictionError):
        await begin(worker(pipeline, clock), broker)
    assert await rows(pipeline.database, owners) == []


async def test_what_went_after_it_was_stored_is_no_gap(pipeline: Pipeline, broker: Broker, clock: Clock) -> None:
    await take(pipeline, [news(0), news(1)], where=broker.place())
    broker.begins[ONE] = 2
    assert await begin(worker(pipeline, clock), broker) == {ONE: 2}


async def test_a_partition_that_was_given_up_is_not_suspect(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    first = worker(pipeline, clock, "first")
    await begin(first, broker)
    await first.end(in_order=True)
    taken = await module.owners.take(pipeline.database, [broker.place()], "second", NOW, {})
    assert [each.unclean for each in taken] == [False]


async def test_a_partition_whose_owner_vanished_is_suspect(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await begin(worker(pipeline, clock, "first"), broker)
    taken = await module.owners.take(pipeline.database, [broker.place()], "second", NOW, {})
    assert [each.unclean for each in taken] == [True]


async def test_a_death_is_remembered_by_those_who_leave_before_they_have_worked_it_off(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await begin(worker(pipeline, clock, "first"), broker)
    second = worker(pipeline, clock, "second")
    await begin(second, broker)
    await second.end(in_order=True)
    taken = await module.owners.take(pipeline.database, [broker.place()], "third", NOW, {})
    assert [each.unclean for each in taken] == [True]


async def test_a_death_is_forgotten_when_what_was_in_work_is_through(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await begin(worker(pipeline, clock, "first"), broker)
    second = worker(pipeline, clock, "second")
    await begin(second, broker)
    window = pipeline.settings.worker.chunk * pipeline.settings.worker.chunks_in_work
    lane = pipeline.lane("news", MemoryOutlet())
    await lane.submit(Chunk(broker.place(), [news(window)]), lambda _: None)
    assert await lane.drain(30)
    await second.end(in_order=True)
    taken = await module.owners.take(pipeline.database, [broker.place()], "third", NOW, {})
    assert [each.unclean for each in taken] == [False]


async def test_a_beginning_that_is_tried_again_does_not_forget_a_death(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    await begin(worker(pipeline, clock, "first"), broker)
    second = worker(pipeline, clock, "second")
    await begin(second, broker)
    await begin(second, broker)
    taken = await module.owners.take(pipeline.database, [broker.place()], "second", NOW, {})
    assert [each.unclean for each in taken] == [True]


async def test_a_worker_that_wakes_up_late_does_not_keep_what_is_another_s(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    late, owner = worker(pipeline, clock, "late"), worker(pipeline, clock, "owner")
    await begin(owner, broker)
    await begin(late, broker)
    await owner.beat(lambda _: None)
    await late.end(in_order=True)
    row, _ = await rows(pipeline.database, owners)
    assert (row["worker"], row["left_at"]) == ("owner", None)


async def test_a_sign_of_life_does_not_come_after_the_farewell(
    pipeline: Pipeline, broker: Broker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = worker(pipeline, clock)
    await begin(assignment, broker)
    beat, late = module.owners.beat, asyncio.Event()

    async def slow(*arguments: Any) -> None:
        await late.wait()
        await beat(*arguments)

    monkeypatch.setattr(module.owners, "beat", slow)
    living = asyncio.ensure_future(assignment.beat(lambda _: None))
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(assignment.end(in_order=True))
    await asyncio.sleep(0)
    late.set()
    await asyncio.gather(living, leaving)
    row, _ = await rows(pipeline.database, owners)
    assert row["left_at"] is not None


async def test_a_sign_of_life_before_the_taking_over_hides_no_death(
    pipeline: Pipeline, broker: Broker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(worker(pipeline, clock, "first"), broker)
    second = worker(pipeline, clock, "second")
    take_over, lives = module.owners.take, asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        living = asyncio.ensure_future(second.beat(lambda _: None))
        living.add_done_callback(lambda _: lives.set())
        # Either it writes now, or it waits for us.
        await asyncio.wait([living], timeout=0.2)
        return await take_over(*arguments)

    monkeypatch.setattr(module.owners, "take", slow)
    await begin(second, broker)
    await lives.wait()
    died = {row["partition"]: row["died"] for row in await rows(pipeline.database, owners)}
    assert died[0]


async def test_nothing_is_left_of_a_generation_that_has_ended(
    pipeline: Pipeline, broker: Broker, clock: Clock
) -> None:
    assignment = worker(pipeline, clock)
    await begin(assignment, broker)
    await assignment.end(in_order=True)
    assert assignment.reading == {}


async def test_idleness_is_written_down_once(pipeline: Pipeline, broker: Broker, clock: Clock) -> None:
    assignment = worker(pipeline, clock)
    await begin(assignment, broker)
    clock.now += IDLE
    await assignment.beat(lambda _: clock())
    row, _ = await rows(pipeline.database, owners)
    assert (row["idle_from"], row["idle_at"], row["beat_at"]) == (0, clock(), clock())
    clock.now += SECOND
    await assignment.beat(lambda _: clock())
    row, _ = await rows(pipeline.database, owners)
    assert (row["idle_at"], row["beat_at"]) == (clock() - SECOND, clock())
