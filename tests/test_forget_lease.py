"""A message that a worker claims while its person is being forgotten is followed by the tombstone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ann import CHAT, forget_her, from_ann, rules_in
from helpers import NOW, SECOND, opened, take
from helpers import rows as read
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import forget as forgetting
from schemas.tables import outbox

CLAIMED = NOW + 3600 * SECOND


async def test_a_tombstone_waits_for_a_message_that_was_claimed_just_before_it_was_blanked(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank_rows = forgetting._blank_rows

    async def claimed_before(connection: AsyncConnection, ids: Sequence[int], moment: int) -> Any:
        taken = update(outbox).where(outbox.c.event.in_(ids))
        await connection.execute(taken.values(lease_until=CLAIMED, sent_at=None))
        return await blank_rows(connection, ids, moment)

    async with opened(database_url, rules=rules_in(tmp_path)) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        monkeypatch.setattr(forgetting, "_blank_rows", claimed_before)
        await forget_her(pipeline)
        tombstones = [row for row in await read(pipeline.database, outbox) if row["event"] is None]
        assert [row["lease_until"] for row in tombstones] == [CLAIMED] * 2
