"""The outbox: one worker at a time sends a message, a failure lets it rest, only the latest of a key goes out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from helpers import NOW, RULE, SECOND, Clock, news, only, opened, outage, rows, settings_for, take, upgraded
from kafka.admin import ConfigResource, ConfigResourceType
from servers import Address, KafkaServer
from sqlalchemy import text

from pipeline import admin
from pipeline.deliver import KafkaOutlet, MemoryOutlet
from pipeline.embedded import EmbeddedBroker
from pipeline.localpg import LocalPostgres
from pipeline.producer import open_producer
from pipeline.settings import Settings, load_settings
from pipeline.store import outbox as box
from pipeline.store.database import Database
from pipeline.sweep import BATCH, sweep
from pipeline.topics import Topics
from pipeline.work import PARTITION_HEADER, Message
from schemas.errors import DatabaseError
from schemas.tables import outbox

PARTITIONS = 4


@contextlib.asynccontextmanager
async def stored(url: str, *messages: Message) -> AsyncIterator[Database]:
    """A database with these messages in its outbox, free to be claimed after NOW."""
    database = Database((await upgraded(settings_for(url))).database)
    named = [(str(index), message, None) for index, message in enumerate(messages)]
    try:
        async with database.begin() as connection:
            await box.put(connection, named, NOW, NOW)
        yield database
    finally:
        await database.close()


def message(key: str = "k", value: bytes | None = b"{}", version: int | None = None) -> Message:
    return Message("t.alerts", key.encode(), value, version=version)


def keys(messages: Sequence[Message]) -> list[bytes | None]:
    return [each.key for each in messages]


# Claims


async def test_a_leased_message_is_not_claimed_again_until_its_lease_has_run_out(database_url: str) -> None:
    lease = box.LEASE * SECOND
    async with stored(database_url, message()) as database:
        assert len(await box.claim(database, NOW + 1)) == 1
        assert await box.claim(database, NOW + 1 + lease) == []
        assert len(await box.claim(database, NOW + 2 + lease)) == 1
        assert (await only(database, outbox))["attempts"] == 2


async def test_two_claimers_at_once_never_take_the_same_row(database_url: str) -> None:
    names = [f"k{index:02}" for index in range(30)]
    async with stored(database_url, *map(message, names)) as database:
        other = Database(database.settings)
        try:
            taken = await asyncio.gather(
                *(box.claim(each, NOW + 1, 5) for each in (database, other, database, other, database, other))
            )
        finally:
            await other.close()
    assert sorted(key for each in taken for key in keys(each)) == [name.encode() for name in names]


async def test_a_claimer_passes_over_what_another_is_just_taking(postgres: LocalPostgres) -> None:
    name = postgres.create()
    try:
        two = stored(postgres.url(name), message("a"), message("b"))
        async with two as database, database.begin() as connection:
            await connection.execute(text("SELECT id FROM outbox WHERE id = 1 FOR UPDATE"))
            assert keys(await box.claim(database, NOW + 1)) == [b"b"]
    finally:
        postgres.drop(name)


async def test_messages_are_claimed_in_their_order_and_no_more_than_asked_for(database_url: str) -> None:
    async with stored(database_url, message("a"), message("b"), message("c")) as database:
        assert keys(await box.claim(database, NOW + 1, 2)) == [b"a", b"b"]
        assert keys(await box.claim(database, NOW + 1, 2)) == [b"c"]


async def test_a_message_is_put_once_however_often_it_comes(database_url: str) -> None:
    async with stored(database_url, message()) as database:
        async with database.begin() as connection:
            assert await box.put(connection, [("0", message(), None)], NOW, NOW) == []
        await only(database, outbox)


# Back-off


async def test_a_message_that_failed_rests_before_it_is_claimed_again(database_url: str) -> None:
    async with stored(database_url, message()) as database:
        [claimed] = await box.claim(database, NOW + 1)
        await box.mark_failed(database, {claimed.outbox or 0: "x" * 1000}, NOW + 1)
        row = await only(database, outbox)
        assert (row["error"], row["sent_at"]) == ("x" * 300, None)
        assert await box.claim(database, NOW + 1 + 5 * SECOND) == []
        assert len(await box.claim(database, NOW + 2 + 5 * SECOND)) == 1


def test_the_back_off_doubles_up_to_a_quarter_of_an_hour() -> None:
    waits = [box.back_off(attempts) // SECOND for attempts in range(1, 11)]

    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert box.back_off(10**9) == 900 * SECOND


async def test_each_failure_makes_the_rest_longer(database_url: str) -> None:
    rests = []
    now = NOW + 1
    async with stored(database_url, message()) as database:
        for _ in range(3):
            [claimed] = await box.claim(database, now)
            await box.mark_failed(database, {claimed.outbox or 0: "away"}, now)
            until = (await only(database, outbox))["lease_until"]
            rests.append(until - now)
            now = until + 1
    assert rests == [5 * SECOND, 10 * SECOND, 20 * SECOND]


async def test_what_was_sent_after_all_does_not_fail(database_url: str) -> None:
    async with stored(database_url, message()) as database:
        await box.mark_sent(database, [1], NOW)
        await box.mark_failed(database, {1: "too late"}, NOW)
        assert (await only(database, outbox))["error"] is None


# Versions


async def test_a_superseded_version_is_not_sent(database_url: str) -> None:
    async with stored(database_url, message(version=1), message(version=2)) as database:
        [claimed] = await box.claim(database, NOW + 1)
        old, new = await rows(database, outbox)
        assert claimed.outbox == new["id"]
        assert (old["sent_at"], old["error"]) == (NOW + 1, "superseded by version 2")


async def test_a_version_is_superseded_by_one_that_was_sent_before(database_url: str) -> None:
    async with stored(database_url, message(version=1), message(version=2)) as database:
        await box.mark_sent(database, [2], NOW)
        assert await box.claim(database, NOW + 1) == []


async def test_versions_of_other_keys_and_topics_do_not_count(database_url: str) -> None:
    elsewhere = Message("t.other", b"k", b"{}", version=3)
    async with stored(database_url, message("k", version=1), message("other", version=2), elsewhere) as database:
        assert len(await box.claim(database, NOW + 1)) == 3


async def test_what_is_superseded_leaves_its_place_in_the_batch_to_others(database_url: str) -> None:
    old = [message(version=version) for version in range(5)]
    async with stored(database_url, *old, message("other")) as database:
        assert keys(await box.claim(database, NOW + 1, 2)) == [b"k", b"other"]


async def test_a_message_carries_its_version_as_a_header(database_url: str) -> None:
    async with stored(database_url, message(version=7)) as database:
        [claimed] = await box.claim(database, NOW + 1)
    assert list(claimed.headers) == [("salience-version", b"7")]


async def test_an_alert_goes_out_with_its_version(database_url: str, tmp_path: Any) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    outlet = MemoryOutlet()
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await take(pipeline, [news(0, "bankrupt")], outlet)
        assert (await only(pipeline.database, outbox))["version"] == 1
    assert [each.headers for each in outlet.messages] == [[("salience-version", b"1")]]


# Sweeping


async def test_a_sweep_sends_all_that_waits_in_batches(database_url: str) -> None:
    outlet = MemoryOutlet()
    names = [f"k{index:03}" for index in range(BATCH * 2 + 1)]
    async with stored(database_url, *map(message, names)) as database:
        assert await sweep(database, outlet, Clock(NOW + 1)) == len(names)
        assert await sweep(database, outlet, Clock(NOW + 1)) == 0
        assert {row["sent_at"] for row in await rows(database, outbox)} == {NOW + 1}
    assert keys(outlet.messages) == [name.encode() for name in names]


async def test_a_message_that_fails_is_left_and_the_others_are_marked(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("refused")]
    async with stored(database_url, message("bad"), message("good")) as database:
        assert await sweep(database, outlet, Clock(NOW + 1)) == 1
        bad, good = await rows(database, outbox)
    assert (bad["sent_at"], bad["error"]) == (None, "refused")
    assert good["sent_at"] == NOW + 1


async def test_where_nothing_of_a_batch_goes_out_the_next_batch_is_not_tried(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("away")] * 1000
    async with stored(database_url, *(message(str(index)) for index in range(BATCH + 1))) as database:
        assert await sweep(database, outlet, Clock(NOW + 1)) == 0
        assert [row["attempts"] for row in await rows(database, outbox)] == [1] * BATCH + [0]


async def test_what_could_not_be_marked_as_sent_does_not_lose_the_failures(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("refused")]
    async with stored(database_url, message("bad"), message("good")) as database:
        with outage(database, 1, "DELETE FROM outbox"), pytest.raises(DatabaseError):
            await sweep(database, outlet, Clock(NOW + 1))
        bad, good = await rows(database, outbox)
    assert bad["error"] == "refused"
    assert good["sent_at"] is None


async def test_the_row_of_a_tombstone_is_gone_after_sending(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with stored(database_url, message("gone", None), message("kept")) as database:
        assert await sweep(database, outlet, Clock(NOW + 1)) == 2
        assert (await only(database, outbox))["key"] == b"kept"
    assert [(each.key, each.value) for each in outlet.messages] == [(b"gone", None), (b"kept", b"{}")]


async def test_a_tombstone_that_failed_is_still_there(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("away")]
    async with stored(database_url, message("gone", None)) as database:
        await sweep(database, outlet, Clock(NOW + 1))
        assert (await only(database, outbox))["sent_at"] is None


async def test_the_waiting_messages_are_counted_with_the_age_of_the_oldest(database_url: str) -> None:
    async with stored(database_url, message("a"), message("b"), message("c")) as database:
        async with database.begin() as connection:
            await box.put(connection, [("later", message("d"), None)], NOW + SECOND, NOW)
        await box.mark_sent(database, [1], NOW)
        assert await box.waiting(database) == (3, NOW)
        await box.mark_sent(database, [2, 3], NOW)
        assert await box.waiting(database) == (1, NOW + SECOND)
        await box.mark_sent(database, [4], NOW)
        assert await box.waiting(database) == (0, None)


# On a broker


@pytest.fixture
async def topics(embedded_broker: EmbeddedBroker, prefix: str) -> Settings:
    broker = {"servers": embedded_broker.servers, "prefix": prefix, "partitions": PARTITIONS}
    settings = load_settings(broker=broker)
    await asyncio.to_thread(admin.create_topics, settings.broker)
    return settings


@contextlib.asynccontextmanager
async def kafka_outlet(settings: Settings) -> AsyncIterator[KafkaOutlet]:
    async with open_producer(settings.broker) as producer:
        yield KafkaOutlet(producer, Topics(settings.broker.prefix).scored)


async def first(settings: Settings, topic: str) -> ConsumerRecord:
    """The first message of a topic, from whatever partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.broker.servers, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        return await asyncio.wait_for(consumer.getone(), 20)
    finally:
        await consumer.stop()


async def test_a_tombstone_arrives_as_one_whichever_way_it_goes(topics: Settings) -> None:
    names = Topics(topics.broker.prefix)
    where: Any = None
    async with kafka_outlet(topics) as outlet:
        await outlet.send(where, [], [], [Message(names.alerts, b"k", None)])
        assert await outlet.send_messages([Message(names.scored, b"k", None)]) == [None]
    for topic in (names.alerts, names.scored):
        found = await first(topics, topic)
        assert (found.key, found.value) == (b"k", None)


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_tombstone_goes_where_the_scored_messages_of_its_key_are(topics: Settings, partition: int) -> None:
    scored = Topics(topics.broker.prefix).scored
    header = (PARTITION_HEADER, str(partition + PARTITIONS).encode())
    async with kafka_outlet(topics) as outlet:
        assert await outlet.send_messages([Message(scored, b"k", None, [header])]) == [None]
    assert (await first(topics, scored)).partition == partition


async def test_a_message_that_the_client_refuses_does_not_hold_up_the_others(topics: Settings) -> None:
    alerts = Topics(topics.broker.prefix).alerts
    async with kafka_outlet(topics) as outlet:
        failures = await outlet.send_messages([Message(alerts, None, None), Message(alerts, b"k", b"{}")])
    assert [failure is None for failure in failures] == [False, True]
    assert (await first(topics, alerts)).value == b"{}"


async def test_the_alerts_topic_keeps_the_latest_of_each_key_and_the_others_do_not(
    kafka: KafkaServer | Address, prefix: str
) -> None:
    settings = load_settings(broker={"servers": kafka.servers, "prefix": prefix, "partitions": 1})
    names = Topics(prefix)

    def policies() -> dict[str, str]:
        admin.create_topics(settings.broker)
        with admin.admin(settings.broker) as client:
            asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names.all]
            found = client.describe_configs(asked)["topic"]
        return {name: own["cleanup.policy"]["value"] for name, own in found.items() if "cleanup.policy" in own}

    assert await asyncio.to_thread(policies) == {names.alerts: "compact,delete"}
