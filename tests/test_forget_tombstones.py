"""Who reads the topics is told of a forgotten person: by tombstones, after all that is on its way."""

from pathlib import Path

import pytest
from ann import (
    BEHAVIOR,
    CHAT,
    LONG_AFTER,
    SETTLE,
    TOPICS,
    agent,
    forget_her,
    from_ann,
    rules_in,
)
from helpers import NOW, SECOND, Clock, behavior, only, opened, place, take
from helpers import rows as read
from sqlalchemy import update

from pipeline.deliver import MemoryOutlet
from pipeline.sweep import sweep
from schemas.tables import (
    outbox,
)


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    return rules_in(tmp_path)


async def test_each_alert_and_each_key_of_the_scored_topic_gets_a_tombstone(
    database_url: str, rules: dict[str, str]
) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0), from_ann(1), agent(2, "hello")], where=CHAT)
        await take(pipeline, [from_ann(0, "hi", id="d0", conversation="k2")], where=place("chat", 3))
        await take(pipeline, [behavior(0), behavior(1), behavior(2, "bob")], where=BEHAVIOR)
        await pipeline.flush()
        done = await forget_her(pipeline)
        await sweep(pipeline.database, outlet, Clock(NOW + 1))
    sent = sorted((each.topic, each.key, dict(each.headers)) for each in outlet.messages)
    version, first, fourth = {"salience-version": b"1"}, {"salience-partition": b"0"}, {"salience-partition": b"3"}
    assert sent == [
        ("salience.alerts", b"lost-card//chat/desk/c0", version),
        ("salience.alerts", b"lost-card//chat/desk/c1", version),
        ("salience.scored", b"ann", first),
        ("salience.scored", b"k1", first),
        ("salience.scored", b"k2", fourth),
    ]
    assert {each.value for each in outlet.messages} == {None}
    assert done.tombstones == 5


async def test_a_message_that_was_not_sent_yet_becomes_a_tombstone(
    database_url: str, rules: dict[str, str]
) -> None:
    lost, outlet = MemoryOutlet(), MemoryOutlet()
    lost.fail = [RuntimeError("the process died here")]
    async with opened(database_url, rules=rules) as pipeline:
        with pytest.raises(RuntimeError):
            await take(pipeline, [from_ann(0)], lost, CHAT)
        assert (await forget_her(pipeline)).messages == 1
        await sweep(pipeline.database, outlet, Clock(LONG_AFTER))
        assert await read(pipeline.database, outbox) == []
    assert [(each.key, each.value) for each in outlet.messages if each.topic == TOPICS.alerts] == [
        (b"lost-card//chat/desk/c0", None)
    ] * 2


async def test_a_message_without_a_key_goes_as_no_tombstone_could_follow_it(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        async with pipeline.database.begin() as connection:
            await connection.execute(update(outbox).values(key=None))
        await forget_her(pipeline)
        assert None not in [row["key"] for row in await read(pipeline.database, outbox)]


async def test_tombstones_wait_while_messages_may_be_on_their_way(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        # The broker has the scored messages; the database does not know it yet.
        await forget_her(pipeline)
        assert (await only(pipeline.database, outbox))["lease_until"] == NOW + SETTLE


async def test_tombstones_wait_for_the_lease_of_the_message_before(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        await pipeline.flush()
        async with pipeline.database.begin() as connection:
            taken = {"sent_at": None, "lease_until": NOW + 7 * SECOND}
            await connection.execute(update(outbox).values(**taken))
        await forget_her(pipeline)
        assert {row["lease_until"] for row in await read(pipeline.database, outbox)} == {NOW + 7 * SECOND}
