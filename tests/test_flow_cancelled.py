"""A chunk that is stopped in the middle of its transaction leaves nothing locked and nothing half done."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers import news, opened, place, rows, take
from sqlalchemy import event

from pipeline.compose import Pipeline
from schemas.tables import events, progress

BUSY = {"lock_timeout": 0.2}


async def _stopped_at(pipeline: Pipeline, statement: str, offset: int) -> None:
    """Take a chunk, and cancel it while the first statement that contains `statement` runs."""
    chunk = asyncio.ensure_future(take(pipeline, [news(offset), news(offset + 1)]))
    loop = asyncio.get_running_loop()
    stopped = False

    def stop(_c: Any, _r: Any, text: str, *_: Any) -> None:
        nonlocal stopped
        if statement in text and not stopped:
            stopped = True
            loop.call_soon_threadsafe(chunk.cancel)

    engine = pipeline.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", stop)
    try:
        with pytest.raises(asyncio.CancelledError):
            await chunk
    finally:
        event.remove(engine, "before_cursor_execute", stop)
    assert stopped


@pytest.mark.parametrize(
    "statement",
    ["FROM progress", "FROM watermarks", "INSERT INTO events", "INSERT INTO scores", "UPDATE progress"],
)
async def test_a_chunk_that_is_stopped_locks_nobody_out(tmp_path: Path, statement: str) -> None:
    async with opened(f"sqlite:///{tmp_path / 's.db'}", database=BUSY) as pipeline:
        for round_ in range(10):
            await _stopped_at(pipeline, statement, 10 * round_)
            async with pipeline.database.begin():
                pass


async def test_a_chunk_that_is_stopped_is_stored_whole_or_not_at_all(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await _stopped_at(pipeline, "INSERT INTO scores", 0)
        stored = len(await rows(pipeline.database, events))
        assert stored in (0, 2)
        assert sum(row["stored"] for row in await rows(pipeline.database, progress)) == stored
        applied = await take(pipeline, [news(0), news(1)], where=place())
        assert applied.new + applied.repeated == 2
        assert len(await rows(pipeline.database, events)) == 2
