"""What a worker had in hand, alone, after another had died: written only then, and read by whoever comes next."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.database import Database, uninterrupted
from pipeline.store.owners import Standing
from schemas.events import Place
from schemas.tables import attempts, owners, progress

# Deaths after which a record that was in work each time, the last time alone, is given up.
_DEATHS = 3
# Records handled together after the first death.
_PIECE = 16

_KEY = ("cluster", "topic", "incarnation", "partition")
_COLUMNS = tuple_(*[attempts.c[name] for name in _KEY])


class Suspect(Struct, frozen=True):
    """Records [first, until) of a partition, one of which may have ended a process.

    `attempts` counts the deaths with them in work; `marked` says that the table has them.
    """

    first: int
    until: int
    attempts: int
    marked: bool

    @property
    def piece(self) -> int:
        """How many of them may be in work together."""
        return 1 if self.marked else _PIECE

    @property
    def condemned(self) -> bool:
        """It is a single record, and was the death of too many."""
        return self.until - self.first == 1 and self.attempts >= _DEATHS


async def suspects(database: Database, standings: Sequence[Standing], window: int) -> dict[Place, Suspect]:
    """What must be handled with care, of the partitions whose former owner died.

    `window` is the number of records of a stream that a worker has in work at most. Marks that say nothing any
    more, because their worker ended in order or their records are through, are removed.

    Raises:
        DatabaseError: the database is away.
    """
    if not standings:
        return {}
    marks = await _read(database, [each.place for each in standings])
    found: dict[Place, Suspect] = {}
    void = []
    for standing in standings:
        place, mark = standing.place, marks.get(standing.place)
        if mark is not None and not (standing.unclean and mark.until > standing.published):
            void.append(place)
            mark = None
        if standing.unclean:
            found[place] = mark or Suspect(standing.published, standing.stored + window, 1, False)
    if void:
        await remove(database, void)
    return found


@uninterrupted
async def put(database: Database, place: Place, first: int, until: int, count: int, now: int) -> None:
    """Write down that the records [first, until) are in work for the `count`th time, and all before them through.

    A partition has one mark.
    """
    build: Any = sqlite_insert if database.is_sqlite else postgresql_insert
    changed = {"first": first, "until": until, "attempts": count, "updated_at": now}
    values = {name: getattr(place, name) for name in _KEY} | changed
    statement = build(attempts).values(**values)
    statement = statement.on_conflict_do_update(index_elements=[attempts.c[name] for name in _KEY], set_=changed)
    async with database.begin() as connection:
        await connection.execute(statement)
        await _advance(connection, place, first)


@uninterrupted
async def pass_by(database: Database, place: Place, until: int, *, all_through: bool = False) -> None:
    """Remove the mark: all records before offset `until` are through.

    That they are is written down with it, or whoever comes next would meet a record that was given up again.
    `all_through`: with them all that was in work when a worker died.
    """
    async with database.begin() as connection:
        await connection.execute(delete(attempts).where(_COLUMNS.in_(_keys([place]))))
        await _advance(connection, place, until)
        if all_through:
            own = [owners.c[name] == getattr(place, name) for name in _KEY]
            await connection.execute(update(owners).where(*own).values(died=False))


@uninterrupted
async def remove(database: Database, places: Sequence[Place]) -> None:
    """Nothing of these partitions is suspected any more."""
    async with database.begin() as connection:
        await connection.execute(delete(attempts).where(_COLUMNS.in_(_keys(places))))


async def _advance(connection: AsyncConnection, place: Place, until: int) -> None:
    own = [progress.c[name] == getattr(place, name) for name in _KEY]
    await connection.execute(update(progress).where(*own, progress.c.published < until).values(published=until))


async def _read(database: Database, places: Sequence[Place]) -> dict[Place, Suspect]:
    of = dict(zip(_keys(places), places, strict=True))
    async with database.read() as connection:
        rows = await connection.execute(select(attempts).where(_COLUMNS.in_(list(of))))
        return {
            of[row.cluster, row.topic, row.incarnation, row.partition]: Suspect(
                row.first, row.until, row.attempts, True
            )
            for row in rows
        }


def _keys(places: Sequence[Place]) -> list[tuple[str, str, str, int]]:
    return [(place.cluster, place.topic, place.incarnation, place.partition) for place in places]
