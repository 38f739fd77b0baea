"""Dead letters back to the topics they came from: bytes untouched, and marked only when they have arrived."""

from collections.abc import Callable
from typing import Any

import pytest
from helpers import opened, place, rows, settings_for, take, upgraded
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import MessageSizeTooLargeError
from kafka.future import Future

from pipeline import admin, send
from pipeline.replay import Replayed, to_topic
from pipeline.settings import Settings
from pipeline.store.database import Database
from schemas.errors import BrokerError, ConfigError, UsageError
from schemas.events import Line, Place
from schemas.tables import dead_letters

TOO_LARGE = b"x" * 2 * 1_048_576


class PickyProducer(KafkaProducer):  # type: ignore[misc]
    """Answers as Apache Kafka does to a record above its limit; the embedded broker takes any."""

    def send(self, topic: str, value: Any, **record: Any) -> Any:
        if value == TOO_LARGE:
            return Future().failure(MessageSizeTooLargeError("above the limit of the topic"))
        return super().send(topic, value, **record)


@pytest.fixture
async def settings(database_url: str, broker: Any, prefix: str) -> Settings:
    """Settings over a fresh database, and topics of one partition."""
    section = {"servers": broker.servers, "prefix": prefix, "partitions": 1}
    settings = await upgraded(settings_for(database_url, broker=section))
    admin.create_topics(settings.broker)
    return settings


@pytest.fixture
def source(settings: Settings) -> Callable[..., Place]:
    """The partition of a stream's topic."""
    return lambda stream="news": place(stream, topic=f"{settings.broker.prefix}.{stream}")


async def dead(settings: Settings, records: list[Line], where: Place) -> list[dict[str, Any]]:
    """These records, none of which can be used, as dead letters; all that there are."""
    async with opened(settings.database_url) as pipeline:
        await take(pipeline, records, where=where)
        return await rows(pipeline.database, dead_letters)


async def marked(settings: Settings) -> list[bool]:
    database = Database(settings.database)
    try:
        return [row["replayed_at"] is not None for row in await rows(database, dead_letters)]
    finally:
        await database.close()


def arrived(settings: Settings, count: int) -> list[Any]:
    """What lies on the topic of news."""
    topic, servers = f"{settings.broker.prefix}.news", settings.broker.servers
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    try:
        return [record for _, record in zip(range(count), consumer, strict=False)]
    finally:
        consumer.close()


async def test_a_letter_goes_back_byte_for_byte(settings: Settings, source: Callable[..., Place]) -> None:
    headers = [("traceparent", b"00-1"), ("salience-attempt", b"2")]
    found = await dead(settings, [Line(0, b"garbage \xff", b"wire", headers=headers)], source())

    assert await to_topic(settings, found) == Replayed(sent=1)

    [record] = arrived(settings, 1)
    assert (record.key, record.value, record.headers) == (b"wire", b"garbage \xff", [("traceparent", b"00-1")])
    assert await marked(settings) == [True]


async def test_a_letter_without_key_and_value_goes_back_as_it_is(
    settings: Settings, source: Callable[..., Place]
) -> None:
    found = await dead(settings, [Line(0, None)], source())

    assert await to_topic(settings, found) == Replayed(sent=1)

    [record] = arrived(settings, 1)
    assert (record.key, record.value) == (None, None)


async def test_only_what_the_broker_has_confirmed_is_marked_as_replayed(
    settings: Settings, source: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "KafkaProducer", PickyProducer)
    records = [Line(0, b"garbage"), Line(1, TOO_LARGE), Line(2, b"other garbage")]
    found = await dead(settings, records, source())

    with pytest.raises(
        BrokerError,
        match=rf"did not confirm 1 .* dead letter {found[1]['id']}: .*; replay again, what arrived is marked",
    ):
        await to_topic(settings, found)

    assert await marked(settings) == [True, False, True]


async def test_a_letter_that_kafka_python_cannot_send_gets_a_sentence(
    settings: Settings, source: Callable[..., Place]
) -> None:
    headers: Any = [("empty", None)]
    found = await dead(settings, [Line(0, b"garbage"), Line(1, b"garbage", headers=headers)], source())

    with pytest.raises(
        UsageError, match=rf"^dead letter {found[1]['id']} cannot be sent to {found[1]['topic']}: "
    ):
        await to_topic(settings, found)

    assert await marked(settings) == [True, False]


async def test_a_letter_of_a_back_fill_is_refused_and_nothing_is_sent(
    settings: Settings, source: Callable[..., Place]
) -> None:
    await dead(settings, [Line(0, b"garbage")], source())
    found = await dead(settings, [Line(0, b"garbage")], place(topic="a.jsonl", origin="backfill", run="june"))

    with pytest.raises(UsageError, match=rf"dead letters {found[1]['id']}; replay them without --to-topic$"):
        await to_topic(settings, found)

    assert await marked(settings) == [False, False]


async def test_each_topic_must_be_there_before_anything_is_sent(
    settings: Settings, source: Callable[..., Place]
) -> None:
    await dead(settings, [Line(0, b"garbage")], source())
    found = await dead(settings, [Line(0, b"garbage")], place("chat", topic="gone.chat"))

    with pytest.raises(ConfigError, match=r"has no topic gone\.chat; run `salience topics create`$"):
        await to_topic(settings, found)

    assert await marked(settings) == [False, False]
