"""What makes time replayable on PostgreSQL: closing waits for the chunks in flight, and they for the closing."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from held import is_held_up
from helpers import EVENT_TIME, NOW, SECOND, Clock, line, news, opened, place, take
from sqlalchemy import text

from pipeline.compose import Pipeline
from pipeline.localpg import LocalPostgres
from pipeline.store import clock, owners, runs, ticks, visible
from pipeline.times import rfc3339

TOPIC = "t.news"
RUN = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")


@pytest.fixture
async def pipeline(postgres: LocalPostgres) -> AsyncIterator[Pipeline]:
    name = postgres.create()
    async with opened(postgres.url(name)) as pipeline:
        yield pipeline
    postgres.drop(name)


async def _close(pipeline: Pipeline) -> ticks.Closed:
    return await ticks.close(pipeline.database, pipeline.instance.tick, "news", TOPIC, NOW)


async def test_closing_waits_for_a_chunk_in_its_transaction(pipeline: Pipeline) -> None:
    await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
    await take(pipeline, [news(0)])
    async with pipeline.database.begin() as connection:
        await clock.lock(connection, place(partition=1), NOW)
        closing = asyncio.ensure_future(_close(pipeline))
        await is_held_up(pipeline.database, closing)
        assert not closing.done()
    closed = await closing
    assert closed.last >= closed.first


async def test_a_chunk_waits_for_a_closing_and_sees_what_it_closed(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0)])
    async with pipeline.database.begin() as connection:
        await clock.stop_clock(connection, "news", "")
        chunk = asyncio.ensure_future(take(pipeline, [news(1)]))
        await is_held_up(pipeline.database, chunk)
        assert not chunk.done()
        await connection.execute(text("UPDATE watermarks SET closed_tick = 999999999"))
    await chunk
    assert await visible.read_ids(pipeline.database, visible.live("news", 999_999_999)) == {1}


async def test_attachment_waits_for_a_chunk_of_its_run(pipeline: Pipeline) -> None:
    await runs.begin(pipeline.database, RUN, "f", False, NOW)
    await runs.finish(pipeline.database, RUN, NOW)
    async with pipeline.database.begin() as connection:
        await clock.lock(connection, RUN, NOW)
        attachment = asyncio.ensure_future(runs.attach(pipeline.database, "r", NOW))
        await is_held_up(pipeline.database, attachment)
        assert not attachment.done()
    await attachment


async def test_a_server_whose_default_is_a_stricter_isolation_changes_nothing(postgres: LocalPostgres) -> None:
    name = postgres.create()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    async with opened(postgres.url(name)) as pipeline, pipeline.database.read() as connection:
        shown = await connection.execute(text("SHOW transaction_isolation"))
        assert shown.scalar_one() == "read committed"
    postgres.drop(name)


class Throng:
    """Workers, closers and back-fills at once on one database; `seen` is what each closing saw."""

    def __init__(self, pipelines: list[Pipeline], moment: Clock) -> None:
        self.pipelines = pipelines
        self.database = pipelines[0].database
        self.tick = pipelines[0].instance.tick
        self.clock = moment
        self.random = random.Random(5)
        self.seen: dict[tuple[str, int], set[int]] = {}
        self.working = 4
        self.names = 0

    async def work(self, partition: int) -> None:
        where, offset = place(partition=partition), 0
        await owners.take(self.database, [where], f"w{partition}", self.clock(), {where: 0})
        for _ in range(25):
            chunk = [self._event(offset + at) for at in range(self.random.randrange(1, 8))]
            offset += len(chunk)
            await take(self.pipelines[partition % 2], chunk, where=where)
        self.working -= 1

    async def close(self, number: int) -> None:
        while self.working:
            self.clock.now += self.random.randrange(3) * SECOND
            for partition in range(4):
                await owners.beat(self.database, f"w{partition}", [], self.clock())
            one = self.pipelines[number]
            closed = await ticks.close(one.database, self.tick, "news", TOPIC, self.clock())
            if closed.last >= closed.first:
                self.seen["", closed.last] = await self.replay("", closed.last)

    async def fill(self, number: int) -> None:
        count = 0
        while self.working:
            count += 1
            run = f"{number}-{count}"
            where = place(cluster="file", topic="f", incarnation=run, origin="backfill", run=run)
            await runs.begin(self.database, where, "f", False, self.clock())
            await take(self.pipelines[number], [self._event(at) for at in range(4)], where=where, notify=False)
            await runs.finish(self.database, where, self.clock())
            more = [self._event(at) for at in range(4, 8)]
            await asyncio.gather(
                take(self.pipelines[number], more, where=where, notify=False),
                runs.attach(self.database, run, self.clock()),
            )

    async def replay(self, run: str, tick: int) -> set[int]:
        query = visible.of_run(run, tick) if run else visible.live("news", tick)
        return await visible.read_ids(self.database, query)

    def _event(self, offset: int) -> Any:
        self.names += 1
        both = self.random.random() < 0.3
        name = f"both{self.random.randrange(100)}" if both else f"n{self.names}"
        moment = EVENT_TIME + (int(name[4:]) * 3 if both else self.random.choice((0, -3, -30, -300))) * SECOND
        if not both:
            moment += self.clock() - NOW
        return line(offset, {"id": name, "source": "wire", "time": rfc3339(moment), "text": f"about {name}"})


async def test_what_a_throng_of_workers_closed_is_what_a_replay_sees(postgres: LocalPostgres) -> None:
    name, moment = postgres.create(), Clock()
    url = postgres.url(name)
    async with opened(url, clock=moment) as one, opened(url, clock=moment) as other:
        throng = Throng([one, other], moment)
        jobs = [throng.work(each) for each in range(4)]
        await asyncio.gather(*jobs, throng.close(0), throng.close(1), throng.fill(0), throng.fill(1))
        assert throng.seen
        replayed = {(run, tick): await throng.replay(run, tick) for run, tick in throng.seen}
        assert replayed == throng.seen
    postgres.drop(name)
