"""A worker that is frozen inside a transaction holds up nobody for longer than the timeout of a lock."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import NOW, news, opened, place, rows, take

from pipeline.localpg import LocalPostgres
from pipeline.store import owners, retention, ticks
from schemas.tables import events, progress

TIMEOUT = 1.0
PATIENCE = {"lock_timeout": TIMEOUT, "outage_deadline": 60.0}

# Freezes in the middle of its chunk's transaction, and goes on when it is woken.
FREEZES = f"""
import asyncio, os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from helpers import news, opened, take
from pipeline.store import bulk

insert, frozen = bulk.insert_events, []

async def freeze(*arguments):
    found = await insert(*arguments)
    if not frozen:
        frozen.append(True)
        print("frozen", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return found

bulk.insert_events = freeze

async def main():
    async with opened(sys.argv[1], database={PATIENCE!r}) as pipeline:
        applied = await take(pipeline, [news(0), news(1)])
        print(applied.new, applied.repeated, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def frozen(postgres: LocalPostgres) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The database, and a process that is frozen inside its transaction there."""
    name = postgres.create()
    url = postgres.url(name)
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZES, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "frozen\n" in iter(process.stdout.readline, "")
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield url, process
    process.kill()
    process.communicate()
    postgres.drop(name)


async def test_a_frozen_worker_holds_up_no_chunk(frozen: tuple[str, subprocess.Popen[str]]) -> None:
    url, process = frozen
    async with opened(url, database=PATIENCE) as pipeline:
        applied = await take(pipeline, [news(0), news(1), news(2)])
        assert applied.new == 3
    process.send_signal(signal.SIGCONT)
    said, errors = process.communicate(timeout=60)
    # What it had begun was rolled back, and it met what the other had stored.
    assert said == "0 2\n", errors
    async with opened(url) as pipeline:
        assert len(await rows(pipeline.database, events)) == 3
        (row,) = await rows(pipeline.database, progress)
        assert (row["stored"], row["new"], row["repeated"]) == (3, 3, 0)


async def test_a_frozen_worker_holds_up_neither_time_nor_pruning(
    frozen: tuple[str, subprocess.Popen[str]],
) -> None:
    url, _ = frozen
    async with opened(url, database=PATIENCE) as pipeline:
        other = place(partition=1)
        await owners.take(pipeline.database, [other], "w", NOW, {other: 0})
        await take(pipeline, [news(0, id="x")], where=other)
        closed = await ticks.close(pipeline.database, pipeline.instance.tick, "news", other.topic, NOW)
        assert closed.last >= closed.first
        year = 365 * retention.DAY
        assert (await retention.prune(pipeline.database, NOW, year, year))["events"] == 0
