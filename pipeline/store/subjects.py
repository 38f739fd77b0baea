"""People by keyed hash: the order in which their events are applied, and when they were forgotten."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import case, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.rows import subject_hash
from schemas.tables import subjects

# Hashes asked for in one statement: databases take some 32,000 values.
_ASKED = 10_000


async def next_sequences(connection: AsyncConnection, key: bytes, names: Sequence[str | None]) -> list[int | None]:
    """A number for each event, growing for each subject (gaps are possible); locks the subjects in key order.

    An event without a subject has none.
    """
    hashes = [subject_hash(key, name) if name else None for name in names]
    counts = Counter(each for each in hashes if each is not None)
    if not counts:
        return [None] * len(names)
    build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    statement = build(subjects)
    statement = statement.on_conflict_do_update(
        index_elements=[subjects.c.subject_hash],
        set_={"apply_sequence": subjects.c.apply_sequence + statement.excluded.apply_sequence},
    )
    returned = await connection.execute(
        statement.returning(subjects.c.subject_hash, subjects.c.apply_sequence),
        [{"subject_hash": each, "apply_sequence": counts[each]} for each in sorted(counts)],
    )
    following = {row.subject_hash: row.apply_sequence - counts[row.subject_hash] + 1 for row in returned}
    sequences: list[int | None] = []
    for each in hashes:
        sequences.append(None if each is None else following[each])
        if each is not None:
            following[each] += 1
    return sequences


async def remember_forgotten(connection: AsyncConnection, moments: Mapping[bytes, int]) -> None:
    """People and conversations, by their hashes, are forgotten as of these moments (microseconds)."""
    build = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    statement = build(subjects)
    given = statement.excluded.forgotten_at
    later = case((subjects.c.forgotten_at > given, subjects.c.forgotten_at), else_=given)
    statement = statement.on_conflict_do_update(
        index_elements=[subjects.c.subject_hash], set_={"forgotten_at": later}
    )
    # In key order, as everybody locks subjects.
    rows = [{"subject_hash": each, "apply_sequence": 0, "forgotten_at": moments[each]} for each in sorted(moments)]
    await connection.execute(statement, rows)


async def forgotten_moments(connection: AsyncConnection, hashes: Collection[bytes]) -> dict[bytes, int]:
    """When those of them that were forgotten were forgotten."""
    sought = list(hashes)
    found: dict[bytes, int] = {}
    for at in range(0, len(sought), _ASKED):
        query = select(subjects.c.subject_hash, subjects.c.forgotten_at).where(
            subjects.c.subject_hash.in_(sought[at : at + _ASKED]), subjects.c.forgotten_at.is_not(None)
        )
        found |= {row.subject_hash: row.forgotten_at for row in await connection.execute(query)}
    return found
