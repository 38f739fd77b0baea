"""Back-fills, each a run with a name."""

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from pipeline.store.database import Database
from schemas.events import Place
from schemas.tables import runs


async def begin(database: Database, place: Place, file: str, notify: bool, now: int) -> None:
    """Write down that a run begins; a run that is repeated keeps its first beginning."""
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    values = {"run": place.run, "stream": place.stream, "file": file, "notify": notify, "started_at": now}
    async with database.begin() as connection:
        await connection.execute(build(runs).values(**values).on_conflict_do_nothing())


async def finish(database: Database, place: Place, now: int) -> None:
    """Write down that a run has ended."""
    async with database.begin() as connection:
        await connection.execute(update(runs).where(runs.c.run == place.run).values(finished_at=now))
