"""A file through the same flow without Kafka: a run of its own, which notifies nobody unless told to."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from pipeline.compose import Pipeline, compose
from pipeline.deliver import KafkaOutlet, NoOutlet, Outlet
from pipeline.files import is_pipe
from pipeline.lane import Lane
from pipeline.producer import open_producer
from pipeline.retry import through_outage
from pipeline.settings import Settings
from pipeline.store import runs
from pipeline.store.ticks import close_run
from pipeline.times import now
from pipeline.topics import Topics
from pipeline.work import Applied
from schemas.errors import OutageError, SalienceError, UsageError
from schemas.events import Chunk, Line, Place

# Seconds between two looks at which ticks of the run can be closed.
_CLOSING = 2.0


class Tally(Struct):
    """What became of the records; sent = stored + repeated + dead."""

    sent: int = 0
    stored: int = 0
    repeated: int = 0
    dead: int = 0
    alerts: int = 0
    seconds: float = 0.0

    def add(self, applied: Applied) -> None:
        self.stored += applied.new
        self.repeated += applied.repeated
        self.dead += len(applied.dead)
        self.alerts += applied.alerts
        self.sent = self.stored + self.repeated + self.dead


async def backfill(
    settings: Settings,
    lines: Iterable[Line],
    stream: str,
    path: str,
    *,
    run: str | None = None,
    notify: bool = False,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Take the lines of `path` through the flow of `stream`.

    Raises:
        SalienceError: it cannot start, or database or broker stayed away too long; running it again is safe.
    """
    started = now()
    place = place_of(path, stream, run, started)
    begun = time.monotonic()
    tally = Tally()

    def done(applied: Applied) -> None:
        tally.add(applied)
        tally.seconds = round(time.monotonic() - begun, 3)
        progress(tally)

    async with await compose(settings, announces=False) as pipeline, _outlet(settings, notify) as outlet:
        await through_outage(
            lambda: runs.begin(pipeline.database, place, path, notify, started),
            settings.database.outage_deadline,
        )
        # One file, one bundle, however long it takes.
        await pipeline.active.keep(started)
        lane = pipeline.lane(stream, outlet, notify)
        try:
            async with _closing(pipeline, place):
                await _read(pipeline, lane, place, lines, done)
        finally:
            await pipeline.flush()
        await _end_run(pipeline, place)
    tally.seconds = round(time.monotonic() - begun, 3)
    return tally


async def _end_run(pipeline: Pipeline, place: Place) -> None:
    async def end() -> None:
        await close_run(pipeline.database, pipeline.instance.tick, place, now(), final=True)
        await runs.finish(pipeline.database, place, now())

    await through_outage(end, pipeline.settings.database.outage_deadline)


@contextlib.asynccontextmanager
async def _closing(pipeline: Pipeline, place: Place) -> AsyncIterator[None]:
    """The run's own time goes on while its file is read."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(_CLOSING)
            with contextlib.suppress(OutageError):
                # The next round closes what is due, and the end of the file closes all.
                await close_run(pipeline.database, pipeline.instance.tick, place, now())

    timer = asyncio.create_task(go_on())
    try:
        yield
    finally:
        timer.cancel()
        await asyncio.wait([timer])


def place_of(path: str, stream: str, run: str | None, started: int) -> Place:
    """Where a file's lines come from: the same file is the same place, whenever it is read.

    What comes through a pipe is another place each time, unless the run has a name.
    """
    name = "stdin" if path == "-" else Path(path).name
    if is_pipe(path):
        run = run or f"{name}-{started}"
        return Place(stream, "file", name, run, 0, "backfill", run)
    digest = _digest(path)
    return Place(stream, "file", name, digest, 0, "backfill", run or f"{name}-{digest[:8]}")


async def _read(
    pipeline: Pipeline, lane: Lane, place: Place, lines: Iterable[Line], done: Callable[[Applied], None]
) -> None:
    chunks = _chunks(lines, pipeline.settings.worker.chunk)
    try:
        while (records := await asyncio.to_thread(next, chunks, None)) is not None and not lane.failed.done():
            await lane.submit(Chunk(place, records), done)
    finally:
        # What was read before the reader failed is kept, too.
        while not await lane.drain(60):
            pass
    if lane.failed.done():
        error = lane.failed.result()
        if isinstance(error, SalienceError):
            raise error
        raise RuntimeError(f"the flow failed: {error!r}") from error


def _chunks(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


@contextlib.asynccontextmanager
async def _outlet(settings: Settings, notify: bool) -> AsyncIterator[Outlet]:
    if not notify:
        yield NoOutlet()
        return
    async with open_producer(settings.broker) as producer:
        yield KafkaOutlet(producer, Topics(settings.broker.prefix).scored, publish_scored=False)


def _digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UsageError(f"the file {path} cannot be read: {error.strerror}") from None
