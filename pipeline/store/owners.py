"""Who reads which partition: written when a worker gets it, while it lives, and when it gives it up."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import RowMapping, and_, case, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.clock import ensure_progress
from pipeline.store.database import Database, uninterrupted
from schemas.events import Place
from schemas.tables import owners, progress

_KEY = ("cluster", "topic", "incarnation", "partition")


class Standing(Struct, frozen=True):
    """A partition as its new owner finds it; offsets are the next ones.

    `known` is false for a partition without progress. `unclean` says that the owner before did not give it up:
    it may have died of a record at or after `published`.
    """

    place: Place
    stored: int
    published: int
    known: bool
    unclean: bool


class Former(Struct, frozen=True):
    """Progress of a topic as it was in another incarnation or cluster; `stored` counts records."""

    stream: str
    topic: str
    cluster: str
    incarnation: str
    stored: int


async def former(database: Database, places: Sequence[Place]) -> list[Former]:
    """Other incarnations of these topics whose progress has not ended."""
    topics = {place.topic: place for place in places}
    query = select(progress).where(
        progress.c.topic.in_(topics), progress.c.ended_at.is_(None), progress.c.cluster != "file"
    )
    found: dict[tuple[str, str, str], Former] = {}
    async with database.read() as connection:
        for row in (await connection.execute(query)).mappings():
            place = topics[row["topic"]]
            if (row["cluster"], row["incarnation"]) == (place.cluster, place.incarnation):
                continue
            key = (row["topic"], row["cluster"], row["incarnation"])
            before = found[key].stored if key in found else 0
            found[key] = Former(row["stream"], *key, before + row["stored"])
    return list(found.values())


async def knows_topic(database: Database, place: Place) -> bool:
    """Whether anything of this incarnation of the topic was ever read."""
    same = [progress.c[name] == getattr(place, name) for name in ("cluster", "topic", "incarnation")]
    async with database.read() as connection:
        return (await connection.execute(select(progress.c.topic).where(*same).limit(1))).first() is not None


async def read(database: Database, places: Sequence[Place]) -> dict[Place, Standing]:
    """How partitions stand, without taking them."""
    async with database.read() as connection:
        return {place: await _standing(connection, place, None) for place in sorted(places, key=_order)}


async def begin_at(database: Database, beginnings: dict[Place, int], now: int) -> None:
    """Partitions without progress begin at these offsets; where another worker was faster, at its own."""
    async with database.begin() as connection:
        for place in sorted(beginnings, key=_order):
            await ensure_progress(connection, place, beginnings[place], now)


@uninterrupted
async def take(
    database: Database, places: Sequence[Place], worker: str, now: int, beginnings: dict[Place, int]
) -> list[Standing]:
    """Write down that `worker` reads these partitions now; returns how it finds each.

    One without progress begins at its offset in `beginnings`.
    """
    build: Any = sqlite_insert if database.is_sqlite else postgresql_insert
    found = []
    async with database.begin() as connection:
        for place in sorted(places, key=_order):
            standing = await _standing(connection, place, worker)
            if not standing.known:
                await ensure_progress(connection, place, beginnings[place], now)
                standing = await _standing(connection, place, worker)
            again = update(progress).where(_is(progress, place), progress.c.ended_at.is_not(None))
            await connection.execute(again.values(ended_at=None))
            values = {**_key(place), "stream": place.stream, "worker": worker, "assigned_at": now, "beat_at": now}
            afresh = {"left_at": None, "died": standing.unclean, "idle_from": None, "idle_at": None}
            statement = build(owners).values(**values, **afresh)
            statement = statement.on_conflict_do_update(
                index_elements=[owners.c[name] for name in _KEY],
                set_={name: statement.excluded[name] for name in ("worker", "assigned_at", "beat_at", *afresh)},
            )
            await connection.execute(statement)
            found.append(standing)
    return found


async def announce(database: Database, places: Sequence[Place], now: int) -> None:
    """There are these partitions: those that nobody has read so far hold the time until somebody does."""
    build: Any = sqlite_insert if database.is_sqlite else postgresql_insert
    rows = [
        {
            **_key(place),
            "stream": place.stream,
            "worker": "",
            "assigned_at": 0,
            "beat_at": now,
            "left_at": now,
            "died": False,
        }
        for place in sorted(places, key=_order)
    ]
    async with database.begin() as connection:
        await connection.execute(build(owners).on_conflict_do_nothing(), rows)


async def beat(database: Database, worker: str, places: Sequence[Place], now: int) -> None:
    """The worker lives, and reads these partitions, even where one that woke up late has written otherwise."""
    mine = update(owners).where(owners.c.worker == worker, owners.c.left_at.is_(None))
    async with database.begin() as connection:
        count = (await connection.execute(mine.values(beat_at=now))).rowcount
        if count < len(places):
            for place in sorted(places, key=_order):
                own = update(owners).where(_is(owners, place))
                await connection.execute(own.values(worker=worker, beat_at=now, left_at=None))


async def declare_idle(database: Database, worker: str, quiet: dict[Place, int], now: int) -> None:
    """Nothing came for a while: after these offsets the partitions have no say in their stream's time."""
    if not quiet:
        return
    async with database.begin() as connection:
        for place in sorted(quiet, key=_order):
            own = update(owners).where(_is(owners, place), owners.c.worker == worker)
            await connection.execute(own.values(idle_from=quiet[place], idle_at=now))


async def leave(database: Database, worker: str, places: Sequence[Place], now: int) -> None:
    """Give partitions up in order: nothing of theirs is in work. What others died of stays written down."""
    if not places:
        return
    mine = and_(owners.c.worker == worker, or_(*[_is(owners, place) for place in places]))
    async with database.begin() as connection:
        await connection.execute(update(owners).where(mine).values(left_at=now))


async def end_former(database: Database, place: Place, now: int) -> int:
    """No more can come from other incarnations of this topic; returns how many partitions that ended."""
    other = or_(progress.c.cluster != place.cluster, progress.c.incarnation != place.incarnation)
    statement = update(progress).where(
        progress.c.topic == place.topic, progress.c.cluster != "file", progress.c.ended_at.is_(None), other
    )
    async with database.begin() as connection:
        return (await connection.execute(statement.values(ended_at=now))).rowcount


async def go_on_at(database: Database, place: Place, offset: int, now: int) -> None:
    """A person has decided that a partition goes on at `offset`: the only way in which progress goes back."""
    statement = update(progress).where(_is(progress, place))
    async with database.begin() as connection:
        timed = case((progress.c.timed > offset, offset), else_=progress.c.timed)
        await connection.execute(statement.values(stored=offset, published=offset, timed=timed, updated_at=now))


async def _standing(connection: AsyncConnection, place: Place, worker: str | None) -> Standing:
    held = select(owners.c.worker, owners.c.left_at, owners.c.died).where(_is(owners, place))
    owner = await _row(connection, held)
    row = await _row(connection, select(progress.c.stored, progress.c.published).where(_is(progress, place)))
    unclean = owner is not None and (owner["died"] or (owner["left_at"] is None and owner["worker"] != worker))
    if row is None:
        return Standing(place, 0, 0, False, unclean)
    return Standing(place, row["stored"], row["published"], True, unclean)


async def _row(connection: AsyncConnection, query: Any) -> RowMapping | None:
    return (await connection.execute(query)).mappings().one_or_none()


def _is(table: Any, place: Place) -> Any:
    return and_(*[table.c[name] == value for name, value in _key(place).items()])


def _key(place: Place) -> dict[str, Any]:
    return {name: getattr(place, name) for name in _KEY}


def _order(place: Place) -> tuple[str, str, str, int]:
    return place.cluster, place.topic, place.incarnation, place.partition
