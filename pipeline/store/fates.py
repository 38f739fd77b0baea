"""What became of a record first holds: a chunk that comes again makes nothing of it that it was not before."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.rows import dead_letter_identity
from pipeline.work import ScoredEvent, Work
from schemas.events import Dead, Record
from schemas.tables import dead_letters


async def hold(connection: AsyncConnection, work: Work, stored: int) -> tuple[list[ScoredEvent], list[Dead]]:
    """Events and dead letters of a chunk, with those of records before offset `stored` as they were decided.

    An error may pass: without this, an event that died of it would be stored besides, or the other way round.
    """
    before = [record for record in work.records if record.offset < stored]
    if not before or work.again or work.place.origin != "live":
        return work.scored, work.dead
    letters = await _letters(connection, work, before)
    names = {each.event.record.offset: each.event.name for each in work.scored}
    scored = [each for each in work.scored if each.event.record.offset not in letters]
    dead = [each for each in work.dead if each.record.offset >= stored or each.record.offset in letters]
    told = {each.record.offset for each in dead}
    for record in before:
        row = letters.get(record.offset)
        if row is not None and record.offset not in told:
            cause = (row.stage, row.reason, row.exception, row.message, row.attempts)
            dead.append(Dead(record, *cause, event=names.get(record.offset)))
    return scored, dead


async def _letters(connection: AsyncConnection, work: Work, records: Sequence[Record]) -> dict[int, Any]:
    """Dead letters of these records that were not replayed, by offset."""
    identities = [dead_letter_identity(work.place, record.offset, record.value) for record in records]
    query = select(dead_letters).where(
        dead_letters.c.identity.in_(identities), dead_letters.c.replayed_at.is_(None)
    )
    return {row.offset: row for row in await connection.execute(query)}
