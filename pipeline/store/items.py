"""Scores of items that are stored already."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import select, tuple_

from pipeline.store.database import Database
from schemas.events import encode_json
from schemas.scores import HeadResult, Score
from schemas.tables import item_scores


async def read_item_scores(
    database: Database, bundle: str, keys: Sequence[tuple[str, bytes]]
) -> dict[tuple[str, bytes], tuple[Score, bytes]]:
    """Stored score and its heads as JSON, by (item, text hash), for those of the keys that are there."""
    query = select(item_scores).where(
        item_scores.c.bundle == bundle, tuple_(item_scores.c.item, item_scores.c.text_hash).in_(list(keys))
    )
    found = {}
    async with database.read() as connection:
        for row in (await connection.execute(query)).mappings():
            score = Score(
                msgspec.convert(row["heads"], dict[str, HeadResult]),
                row["embedding"] or b"",
                row["scale"] or 0.0,
                row["tokens"],
                row["truncated"],
            )
            found[row["item"], row["text_hash"]] = (score, encode_json(row["heads"]))
    return found
