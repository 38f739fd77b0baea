"""The order in which events of one person are applied."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.rows import subject_hash
from schemas.tables import subjects


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
