"""What tells of a pruned event elsewhere goes with it, and no step of pruning looks at all events."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ann import BEHAVIOR, CHAT, LONG_AFTER, from_ann, rules_in
from helpers import DAY, NOW, Clock, behavior, only, opened, take
from helpers import rows as read
from sqlalchemy import event

from pipeline.deliver import MemoryOutlet
from pipeline.store import retention
from pipeline.store.database import Database
from pipeline.store.retention import prune
from pipeline.sweep import sweep
from schemas.tables import alerts, item_scores, outbox

OLD = "2024-03-01T00:00:00Z"
MONTH = 30 * DAY
YEAR = 365 * DAY


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    return rules_in(tmp_path)


async def test_an_alert_of_a_pruned_event_keeps_all_but_its_evidence(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0, time=OLD), from_ann(1)], where=CHAT)
        old, young = await read(pipeline.database, alerts)
        await prune(pipeline.database, NOW, MONTH, YEAR)
        assert await read(pipeline.database, alerts) == [old | {"evidence": {"pruned": True}}, young]


async def test_a_sent_message_goes_with_its_pruned_event(database_url: str, rules: dict[str, str]) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0, time=OLD), from_ann(1)], where=CHAT)
        await pipeline.flush()
        young = (await read(pipeline.database, outbox))[1]
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["outbox"] == 1
        assert await only(pipeline.database, outbox) == young


async def test_a_message_whose_event_was_pruned_goes_once_it_is_sent(
    database_url: str, rules: dict[str, str]
) -> None:
    lost, outlet = MemoryOutlet(), MemoryOutlet()
    lost.fail = [RuntimeError("the process died here")]
    async with opened(database_url, rules=rules) as pipeline:
        with pytest.raises(RuntimeError):
            await take(pipeline, [from_ann(0, time=OLD)], lost, CHAT)
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["outbox"] == 0
        assert b"my card is lost" in (await only(pipeline.database, outbox))["value"]
        await sweep(pipeline.database, outlet, Clock(LONG_AFTER))
        assert len(outlet.messages) == 1
        assert await read(pipeline.database, outbox) == []


# Items


@contextlib.contextmanager
def executed(database: Database, start: str) -> Iterator[list[tuple[str, Any]]]:
    """Statements that begin so, with what they were given."""
    found: list[tuple[str, Any]] = []

    def see(_c: Any, _r: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith(start):
            found.append((statement, given))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", see)


async def plan(database: Database, statement: str, given: Any) -> str:
    """How the database goes about it when it may not read a whole table where it need not."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    async with database.begin() as connection:
        if not database.is_sqlite:
            for name in ("seqscan", "hashjoin", "mergejoin"):
                await connection.exec_driver_sql(f"SET LOCAL enable_{name} = off")
        return repr((await connection.exec_driver_sql(f"{explain} {statement}", given)).all())


async def test_more_items_than_a_batch_are_looked_at_in_several(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    times = [{"time": OLD} if index % 3 else {} for index in range(12)]
    async with opened(database_url) as pipeline:
        lines = [behavior(index, item=f"i{index:02}", **fields) for index, fields in enumerate(times)]
        await take(pipeline, lines, where=BEHAVIOR)
        with executed(pipeline.database, "DELETE FROM item_scores") as deletions:
            assert (await prune(pipeline.database, NOW, MONTH, YEAR))["item_scores"] == 8
        assert [row["item"] for row in await read(pipeline.database, item_scores)] == ["i00", "i03", "i06", "i09"]
        assert len(deletions) == 4


async def test_items_are_held_against_an_index_of_events(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0), behavior(1, item="i2")], where=BEHAVIOR)
        with executed(pipeline.database, "DELETE FROM item_scores") as deletions:
            await prune(pipeline.database, NOW, MONTH, YEAR)
        assert "ix_events_item" in await plan(pipeline.database, *deletions[0])


async def test_a_conversation_is_found_by_an_index_of_events(database_url: str) -> None:
    query = "SELECT id FROM events WHERE stream = 'chat' AND conversation = 'k1' AND forgotten_at IS NULL"
    async with opened(database_url) as pipeline:
        assert "ix_events_conversation" in await plan(pipeline.database, query, ())
