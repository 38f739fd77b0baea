"""Repeats of a story collapse into one piece of evidence when their tick is closed, group by group.

Two texts are one story when their signatures differ in at most 6 of 64 bits. Cut into 7 bands, they then share one
of them (the pigeonhole principle), so that a story is found by equality.
"""

from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk
from pipeline.store.counters import SINGLE_SHARD, move
from schemas.counting import definitions, groups, sightings, stories
from schemas.events import encode_json
from schemas.tables import events

# Microseconds for which a group remembers what it was told: a story that comes back later counts again.
MEMORY = 86_400 * 1_000_000
# Bits in which two signatures of one story differ at most: of headlines and tweets within that distance nearly all
# are the same text with other dates, names of senders, or signs.
NEAR = 6
# Where the bands begin, and how many bits they have: 64 in all.
_BANDS = [(0, 9), (9, 9), (18, 9), (27, 9), (36, 9), (45, 9), (54, 10)]
_ALL = (1 << 64) - 1
# Stories with one part in common that a text is held against, the latest of the days around it. Only a group that
# is told some ten thousand stories a day has more; without a bound, a text there is held against a share of all.
LATEST = 64
# Sightings that are looked at in one transaction.
BATCH = 5_000

_Key = tuple[str, int, int]


async def collapse(connection: AsyncConnection, definition: int, ticks: int, until: int, tick: int) -> int:
    """Go on with a definition's closed ticks up to `until`, a batch of them; returns the last one that is done.

    What an attached back-fill brought to earlier ticks comes first. ticks: of one bucket. tick: its width in
    microseconds.
    """
    last = await _reach(connection, definition, until, MEMORY // tick)
    found = await _sightings(connection, definition, last)
    if found:
        memory = _Memory(definition, MEMORY // tick)
        await memory.recall(connection, found)
        counted = [memory.is_new(each) for each in found]
        await _mark(connection, definition, found, counted, last)
        single = Counter(
            (definition, each.group, each.tick // ticks, each.label, SINGLE_SHARD)
            for each, new in zip(found, counted, strict=True)
            if new
        )
        await move(connection, single, "single")
        await memory.remember(connection)
        await _see(connection, definition, found)
    done = update(definitions).where(definitions.c.id == definition, definitions.c.collapsed_tick < last)
    await connection.execute(done.values(collapsed_tick=last))
    return last


async def _reach(connection: AsyncConnection, definition: int, until: int, longest: int) -> int:
    """The last tick of a batch: whole ticks, at least one, not more than `longest`."""
    of = (sightings.c.definition == definition, sightings.c.counted.is_(None), sightings.c.tick <= until)
    query = select(sightings.c.tick).where(*of).order_by(sightings.c.tick).offset(BATCH).limit(1)
    beyond = (await connection.execute(query)).scalar_one_or_none()
    first = (await connection.execute(select(func.min(sightings.c.tick)).where(*of))).scalar_one()
    if first is None:
        return until
    last = until if beyond is None else max(int(first), int(beyond) - 1)
    return min(last, int(first) + longest - 1)


async def _sightings(connection: AsyncConnection, definition: int, last: int) -> Sequence[Any]:
    # An order that does not depend on that of arrival within a tick.
    names = ("group", "event", "label", "tick", "signature")
    query = (
        select(*[sightings.c[name] for name in names])
        .join_from(sightings, events, events.c.id == sightings.c.event)
        .where(sightings.c.definition == definition, sightings.c.counted.is_(None), sightings.c.tick <= last)
        .order_by(sightings.c.tick, sightings.c.signature, events.c.source, events.c.event_id)
    )
    return (await connection.execute(query)).all()


class _Memory:
    """The stories that the groups of a definition were told lately."""

    def __init__(self, definition: int, length: int) -> None:
        """`length` in ticks."""
        self._definition = definition
        self._length = length
        # Ticks and signatures in order, the latest at the end.
        self._told: dict[_Key, list[tuple[int, int]]] = {}
        self._new: list[tuple[str, int, int]] = []
        self._keys: dict[tuple[str, int], list[_Key]] = {}

    async def recall(self, connection: AsyncConnection, found: Sequence[Any]) -> None:
        """Read the stories that are near any of these."""
        seen = {(each.group, each.signature) for each in found if each.signature is not None}
        self._keys = {one: _keys(*one) for one in seen}
        around = found[0].tick - self._length, found[-1].tick + self._length
        for row in await self._near(connection, around) if seen else ():
            self._told.setdefault((row.group, row.band, row.part), []).append((row.tick, row.signature))
        for told in self._told.values():
            told.sort()

    async def _near(self, connection: AsyncConnection, around: tuple[int, int]) -> Sequence[Row[Any]]:
        low, high = around
        given: dict[str, Any] = {"definition": self._definition, "low": low, "high": high, "most": LATEST}
        if connection.dialect.name == "sqlite":
            keys = {key for near in self._keys.values() for key in near}
            latest = await connection.execute(_RANKED, {**given, "keys": encode_json(sorted(keys)).decode()})
        else:
            told = sorted(self._keys)
            given |= {"groups": [group for group, _ in told], "signatures": [each for _, each in told]}
            latest = await connection.execute(_LATEST, given)
        return latest.all()

    def is_new(self, each: Any) -> bool:
        """Whether the group was not told this lately; if so, now it is."""
        if each.signature is None:
            return True
        keys = self._keys[each.group, each.signature]
        for key in keys:
            for tick, signature in self._told.get(key, ()):
                if abs(each.tick - tick) < self._length and distance(signature, each.signature) <= NEAR:
                    return False
        for key in keys:
            told = self._told.setdefault(key, [])
            insort(told, (each.tick, each.signature))
            del told[:-LATEST]
        self._new.append((each.group, each.tick, each.signature))
        return True

    async def remember(self, connection: AsyncConnection) -> None:
        """Store the stories that were new."""
        new = sorted(self._new)
        if not new:
            return
        if connection.dialect.name == "sqlite":
            told = [(*key, tick, each) for group, tick, each in new for key in self._keys[group, each]]
            names = ("group", "band", "part", "tick", "signature")
            columns: dict[str, list[Any]] = {"definition": [self._definition] * len(told)}
            columns |= {name: [each[at] for each in told] for at, name in enumerate(names)}
            await bulk.insert_all(connection, stories, columns)
        else:
            given = dict(zip(("groups", "ticks", "signatures"), map(list, zip(*new, strict=True)), strict=True))
            await connection.execute(_STORED, {**given, "definition": self._definition})


# On PostgreSQL the keys of a signature are made in the database: seven times as many values took long to be sent.
_BANDED = (
    "CROSS JOIN (VALUES "
    + ", ".join(f"({band}, {start}, {(1 << size) - 1})" for band, (start, size) in enumerate(_BANDS))
    + ") AS bands(band, start, mask)"
)
_PART = "CAST((given.signature >> bands.start) & bands.mask AS integer)"
_STORED = text(
    'INSERT INTO stories (definition, "group", band, part, tick, signature) '
    f'SELECT CAST(:definition AS bigint), given."group", bands.band, {_PART}, given.tick, given.signature '
    "FROM unnest(CAST(:groups AS text[]), CAST(:ticks AS bigint[]), CAST(:signatures AS bigint[])) "
    f'AS given("group", tick, signature) {_BANDED} ON CONFLICT DO NOTHING'
)
# The latest stories of each key, found by the primary key from its end, however many there are.
_LATEST = text(
    'SELECT latest."group", latest.band, latest.part, latest.tick, latest.signature FROM ('
    f'SELECT DISTINCT given."group", bands.band, {_PART} AS part '
    "FROM unnest(CAST(:groups AS text[]), CAST(:signatures AS bigint[])) "
    f'AS given("group", signature) {_BANDED}) AS keys CROSS JOIN LATERAL (SELECT * FROM stories '
    'WHERE definition = :definition AND "group" = keys."group" AND band = keys.band AND part = keys.part '
    "AND tick > :low AND tick < :high ORDER BY tick DESC, signature DESC LIMIT :most) AS latest"
)
# The same for SQLite, which has no lateral joins, and reads all stories of a definition unless it is told by CROSS
# JOIN to take the keys first.
_RANKED = text(
    'SELECT "group", band, part, tick, signature FROM ('
    'SELECT stories."group", band, part, tick, signature, row_number() OVER ('
    'PARTITION BY stories."group", band, part ORDER BY tick DESC, signature DESC) AS rank '
    "FROM json_each(:keys) AS given CROSS JOIN stories WHERE definition = :definition "
    "AND stories.\"group\" = json_extract(given.value, '$[0]') AND band = json_extract(given.value, '$[1]') "
    "AND part = json_extract(given.value, '$[2]') AND tick > :low AND tick < :high) WHERE rank <= :most"
)


def _keys(group: str, signature: int) -> list[_Key]:
    bits = signature & _ALL
    return [(group, band, bits >> start & ((1 << size) - 1)) for band, (start, size) in enumerate(_BANDS)]


def distance(one: int, other: int) -> int:
    """Bits in which two signatures differ."""
    return ((one ^ other) & _ALL).bit_count()


_REPEATED = (
    update(sightings)
    .where(
        sightings.c.definition == bindparam("of"),
        sightings.c.group == bindparam("in_group"),
        sightings.c.event == bindparam("by"),
        sightings.c.counted.is_(None),
    )
    .values(counted=False)
)


async def _mark(
    connection: AsyncConnection, definition: int, found: Sequence[Any], counted: Sequence[bool], last: int
) -> None:
    """Mark the repeats, which are few, one by one; all the rest up to tick `last` in one statement."""
    repeats = [
        {"of": definition, "in_group": each.group, "by": each.event}
        for each, new in zip(found, counted, strict=True)
        if not new
    ]
    if repeats:
        await connection.execute(_REPEATED, repeats)
    rest = update(sightings).where(
        sightings.c.definition == definition, sightings.c.counted.is_(None), sightings.c.tick <= last
    )
    await connection.execute(rest.values(counted=True))


async def _see(connection: AsyncConnection, definition: int, found: Sequence[Any]) -> None:
    """Write down that the groups were seen: first and last tick with an event."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for each in found:
        first[each.group] = min(first.get(each.group, each.tick), each.tick)
        last[each.group] = max(last.get(each.group, each.tick), each.tick)
    names = sorted(first)
    columns: Mapping[str, list[Any]] = {
        "definition": [definition] * len(names),
        "group": names,
        "first_tick": [first[name] for name in names],
        "last_tick": [last[name] for name in names],
    }
    await bulk.merge_all(connection, groups, columns, {"first_tick": "least", "last_tick": "greatest"})
