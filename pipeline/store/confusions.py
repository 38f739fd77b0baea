"""How often each bundle takes a label for another: kept beside what it scored, for decisions on shares."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.scorer import Scorer
from pipeline.rules import ShareRule
from pipeline.store.database import Database
from pipeline.surge.share import Confusion, perfect
from schemas.counting import confusions
from schemas.labels import STREAMS


async def remember_confusions(database: Database, scorer: Scorer) -> None:
    """Store a bundle's confusion matrices, once."""
    found = {name: each for stream in STREAMS for name, each in scorer.countable(stream).items()}
    rows = [
        {"bundle": scorer.bundle, "head": name, "labels": list(labels), "counts": [list(row) for row in counts]}
        for name, (labels, counts) in sorted(found.items())
    ]
    if not rows:
        return
    async with database.read() as connection:
        known = select(confusions.c.head).where(confusions.c.bundle == scorer.bundle)
        if set((await connection.execute(known)).scalars()) >= set(found):
            return
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    async with database.begin() as connection:
        await connection.execute(build(confusions).on_conflict_do_nothing(), rows)


async def confusion_of(connection: AsyncConnection, bundle: str, rule: ShareRule) -> Confusion:
    """The matrix of the head whose label a rule watches; that of one that is never wrong where none is known."""
    of_head = select(confusions).where(confusions.c.head == rule.head)
    row = (await connection.execute(of_head.where(confusions.c.bundle == bundle))).one_or_none()
    if row is None or not set(rule.label) <= set(row.labels):
        # The labels of other bundles still tell which there are.
        known = (await connection.execute(of_head)).all()
        return perfect(sorted({*rule.label, *(label for each in known for label in each.labels)}))
    return _confusion(row.labels, row.counts)


def _confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Confusion:
    if not counts:
        return perfect(labels)
    # One correct answer more: a label that calibration never met is not taken for others.
    matrix = np.array(counts, float) + np.eye(len(labels))
    rows = matrix / matrix.sum(axis=1, keepdims=True)
    # Beyond this the inverse would blow chance up more than it takes errors out.
    if np.linalg.cond(rows) > 1e3:
        return perfect(labels)
    return Confusion(tuple(labels), tuple(tuple(row) for row in rows.tolist()))
