"""What tests of locks share: waiting until a task waits for another."""

import asyncio
from typing import Any

from sqlalchemy import text

from pipeline.store.database import Database


async def is_held_up(database: Database, task: asyncio.Task[Any]) -> None:
    """Wait until `task` waits for a lock, or is through; on SQLite the only writer holds it up from the start."""
    while not (task.done() or database.is_sqlite):
        async with database.read() as connection:
            waiting = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            if waiting.scalar_one():
                return
