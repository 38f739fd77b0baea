"""The order in which events of one person are applied."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.rows import subject_hash
from schemas.tables import subjects


async def next_sequences(connection: AsyncConnection, key: bytes, names: Sequence[str]) -> list[int]:
    """A number for each event, growing for each subject (gaps are possible); locks the subjects in key order."""
    if not names:
        return []
    hashes = [subject_hash(key, name) for name in names]
    counts = Counter(hashes)
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
    sequences = []
    for each in hashes:
        sequences.append(following[each])
        following[each] += 1
    return sequences
