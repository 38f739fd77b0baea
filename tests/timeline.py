"""A stream with partitions, workers that come and go, and back-fills: random histories for the tests of time."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from helpers import EVENT_TIME, NOW, SECOND, Clock, line, place, settings_for, take
from msgspec import Struct

from models.stub import StubScorer
from pipeline.compose import Pipeline, compose
from pipeline.store import owners, runs, ticks, visible
from pipeline.times import rfc3339
from schemas.events import Line, Place

STREAM = "news"


class Log(Struct):
    """A partition: its records, who owns it, and where the owner stands."""

    place: Place
    records: list[Line] = []
    owner: int | None = None
    position: int = 0


class Timeline:
    """What happens to one stream; `seen` holds what each closing saw, by (run, tick)."""

    def __init__(self, pipelines: Sequence[Pipeline], clock: Clock, partitions: int) -> None:
        self.pipelines = pipelines
        self.clock = clock
        self.logs = [Log(place(STREAM, partition=number)) for number in range(partitions)]
        self.names = 0
        self.produced: set[str] = set()
        self.files: list[tuple[Place, list[Line]]] = []
        self.seen: dict[tuple[str, int], set[int]] = {}
        self._first = pipelines[0]
        self.database = pipelines[0].database
        self.tick = pipelines[0].instance.tick

    async def start(self) -> None:
        for number, log in enumerate(self.logs):
            await self.own(log, number % len(self.pipelines))

    def arrive(self, number: int, moment: int, name: str | None = None) -> None:
        """An event of `moment`, microseconds, comes to a partition."""
        log = self.logs[number % len(self.logs)]
        log.records.append(self._event(len(log.records), moment, name))

    async def own(self, log: Log, worker: int) -> None:
        """A worker takes a partition and begins where its progress says."""
        name = f"worker-{worker}"
        (standing,) = await owners.take(self.database, [log.place], name, self.clock(), {log.place: 0})
        log.owner, log.position = worker, standing.published

    async def leave(self, number: int, in_order: bool) -> None:
        """A worker gives a partition up, or dies."""
        log = self.logs[number % len(self.logs)]
        if log.owner is not None and in_order:
            await owners.leave(self.database, f"worker-{log.owner}", [log.place], self.clock())
        log.owner = None

    async def work(self, number: int, most: int) -> None:
        """The owner takes a chunk."""
        log = self.logs[number % len(self.logs)]
        chunk = log.records[log.position : log.position + most]
        if log.owner is not None and chunk:
            await take(self.pipelines[log.owner], chunk, where=log.place)
            log.position += len(chunk)

    async def fall_idle(self, number: int) -> None:
        """The owner has found nothing for a while."""
        log = self.logs[number % len(self.logs)]
        if log.owner is not None and log.position == len(log.records):
            quiet = {log.place: log.position}
            await owners.declare_idle(self.database, f"worker-{log.owner}", quiet, self.clock())

    async def pass_time(self, seconds: int) -> None:
        """The clock goes on, and the living write that they live."""
        self.clock.now += seconds * SECOND
        for worker in {log.owner for log in self.logs if log.owner is not None}:
            await owners.beat(self.database, f"worker-{worker}", [], self.clock())

    async def close(self, worker: int) -> None:
        """Any worker's timer; what it sees at the last tick it closes is written down."""
        pipeline = self.pipelines[worker % len(self.pipelines)]
        closed = await ticks.close(pipeline.database, self.tick, STREAM, self.logs[0].place.topic, self.clock())
        if closed.last >= closed.first:
            self.seen["", closed.last] = await visible.read_ids(self.database, visible.live(STREAM, closed.last))

    async def backfill(self, moments: Sequence[int], names: Sequence[str | None], attach: bool) -> None:
        """A file is read to its end as a run of its own; perhaps its run is attached."""
        run = f"run-{len(self.files)}"
        where = place(STREAM, cluster="file", topic="f", incarnation=run, origin="backfill", run=run)
        lines = [self._event(at, *each) for at, each in enumerate(zip(moments, names, strict=True))]
        await runs.begin(self.database, where, "f", False, self.clock())
        for start in range(0, len(lines), 2):
            await take(self._first, lines[start : start + 2], where=where, notify=False)
            await self._close_run(where, final=False)
        await self._close_run(where, final=True)
        await runs.finish(self.database, where, self.clock())
        self.files.append((where, lines))
        if attach:
            await runs.attach(self.database, run, self.clock())

    async def come_to_rest(self) -> None:
        """Everything is read, everybody falls idle, and the clock goes on until nothing is left to close."""
        for number, log in enumerate(self.logs):
            if log.owner is None:
                await self.own(log, 0)
            while log.position < len(log.records):
                await self.work(number, 3)
            await self.fall_idle(number)
        for _ in range(3):
            await self.close(0)
            await self.pass_time(2_000)
        await self.close(1)

    async def replayed(self) -> dict[tuple[str, int], set[int]]:
        """The same closings, as the database gives them now."""
        return {
            (run, tick): await visible.read_ids(
                self.database, visible.of_run(run, tick) if run else visible.live(STREAM, tick)
            )
            for run, tick in self.seen
        }

    async def _close_run(self, where: Place, final: bool) -> None:
        closed = await ticks.close_run(self.database, self.tick, where, self.clock(), final=final)
        if closed.last >= closed.first:
            query = visible.of_run(where.run or "", closed.last)
            self.seen[where.run or "", closed.last] = await visible.read_ids(self.database, query)

    def _event(self, offset: int, moment: int, name: str | None = None) -> Line:
        self.names += 1
        name = name or f"n{self.names}"
        self.produced.add(name)
        # The same name has the same content wherever it comes from.
        moment = EVENT_TIME + int(name[-1]) * 100 * SECOND if name.startswith("both") else moment
        body: dict[str, Any] = {"id": name, "source": "wire", "time": rfc3339(moment), "text": f"about {name}"}
        return line(offset, body)


@contextlib.asynccontextmanager
async def timeline(url: str, partitions: int) -> AsyncIterator[Timeline]:
    """Two workers on one database whose schema is there."""
    clock = Clock(NOW)
    async with contextlib.AsyncExitStack() as stack:
        pipelines = [
            await stack.enter_async_context(await compose(settings_for(url), scorer=StubScorer(), clock=clock))
            for _ in range(2)
        ]
        history = Timeline(pipelines, clock, partitions)
        await history.start()
        yield history
