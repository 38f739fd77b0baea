"""One worker process over a full topic, timed by what it has stored."""

import asyncio
import os
import sys
import time
from pathlib import Path

from msgspec import Struct
from sqlalchemy import func, select

from pipeline.bench.site import Run
from pipeline.child import Child
from pipeline.store.database import Database
from pipeline.topics import Topics
from schemas.errors import SalienceError
from schemas.tables import events, progress, scores

# Seconds between two looks at the progress, and without any progress until the run is given up.
_POLL = 0.05
_STALLED = 120.0


class Timing(Struct, frozen=True):
    """Events stored in `seconds` of the clock; `cpu` seconds of the worker process, None off Linux."""

    events: int
    seconds: float
    cpu: float | None
    tokens: int = 0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu_per_event(self) -> float | None:
        """Microseconds of CPU."""
        return None if self.cpu is None else self.cpu / self.events * 1e6


class _Sample(Struct, frozen=True):
    stored: int
    moment: float
    cpu: float | None


class BenchError(SalienceError):
    """The measured worker did not do its work."""

    reason = "bench"


def drive(run: Run, expected: int) -> Timing:
    """Start a worker on the run's topics and time it until all `expected` events are stored.

    The clock runs from the first look that finds rows to the first that finds all of them, and counts what came
    between: the process's start and the joining of the group are no part of it, and neither is the first chunk,
    whose way began before. At that moment the next chunks are on their way already (as many as
    `worker.chunks_in_work`, their slowest stage begun by one at most), so take many more events than those hold.

    Raises:
        BenchError: the worker ended, stood still, or stored other than new events.
    """
    # -P: the worker runs the code that measures it, not what lies in the current folder.
    child = Child([sys.executable, "-P", "-m", "pipeline", "worker"], env=run.environment)
    try:
        return asyncio.run(_watch(run, child, expected))
    finally:
        child.stop(grace=30.0)


async def _watch(run: Run, child: Child, expected: int) -> Timing:
    database = Database(run.settings.database)
    try:
        first, last = await _first_and_last(database, run, child, expected)
        tokens = await _tokens(database, run)
    finally:
        await database.close()
    cpu = None if first.cpu is None or last.cpu is None else last.cpu - first.cpu
    counted = last.stored - first.stored
    return Timing(counted, last.moment - first.moment, cpu, round(tokens * counted / expected))


async def _first_and_last(database: Database, run: Run, child: Child, expected: int) -> tuple[_Sample, _Sample]:
    before = moved = _Sample(0, time.perf_counter(), _cpu(child.pid))
    first: _Sample | None = None
    while True:
        sample = _Sample(await _stored(database, run), time.perf_counter(), _cpu(child.pid))
        if sample.stored > moved.stored:
            moved = sample
            # A load so small that the first look finds all of it is timed from the look before.
            first = first or (sample if sample.stored < expected else before)
        if first is not None and sample.stored >= expected:
            return first, sample
        if child.exit_status() is not None or sample.moment - moved.moment > _STALLED:
            raise BenchError(
                f"the worker stored {sample.stored:,} of {expected:,} events and then no more; it said: "
                + child.output()[-2000:]
            )
        before = sample
        await asyncio.sleep(_POLL)


async def _stored(database: Database, run: Run) -> int:
    query = select(func.sum(progress.c.new)).where(progress.c.topic == _topic(run))
    async with database.read() as connection:
        return int((await connection.execute(query)).scalar() or 0)


async def _tokens(database: Database, run: Run) -> int:
    query = select(func.sum(scores.c.tokens)).join_from(scores, events, scores.c.event == events.c.id)
    async with database.read() as connection:
        return int((await connection.execute(query.where(events.c.topic == _topic(run)))).scalar() or 0)


def _topic(run: Run) -> str:
    return Topics(run.name).inputs["news"]


def _cpu(pid: int) -> float | None:
    """CPU seconds a process has used, all its threads together."""
    try:
        # The program's name stands in parentheses and may hold spaces; user and system time are fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
