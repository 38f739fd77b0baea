"""Messages on a broker: what arrives, where, and that nothing counts as sent before the broker has it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from helpers import EVENT_TIME, RULE, chat, news, only, opened, place, rows, take

from pipeline import admin
from pipeline.admin import create_topics
from pipeline.deliver import KafkaOutlet, letters
from pipeline.embedded import EmbeddedBroker
from pipeline.producer import open_producer
from pipeline.settings import Settings, load_settings
from pipeline.topics import Topics
from pipeline.work import Message, Outgoing
from schemas.errors import BrokerError
from schemas.events import Dead, Line, Place
from schemas.messages import ScoredSchema, json_schemas
from schemas.tables import alerts, outbox, progress

HEADS = b'{"sentiment":{"label":"negative","probability":0.75,"decision":"label","words":[["fall",0.5]]}}'
PARTITIONS = 4


def _settings(servers: str, prefix: str) -> Settings:
    return load_settings(broker={"servers": servers, "prefix": prefix, "partitions": PARTITIONS})


@pytest.fixture
async def topics(embedded_broker: EmbeddedBroker, prefix: str) -> tuple[Settings, Topics]:
    """Settings and names of fresh topics on the embedded broker."""
    settings = _settings(embedded_broker.servers, prefix)
    await asyncio.to_thread(create_topics, settings.broker)
    return settings, Topics(prefix)


@contextlib.asynccontextmanager
async def _outlet(settings: Settings, **options: Any) -> AsyncIterator[KafkaOutlet]:
    async with open_producer(settings.broker) as producer:
        yield KafkaOutlet(producer, Topics(settings.broker.prefix).scored, **options)


async def _read(settings: Settings, topic: str, count: int) -> list[ConsumerRecord]:
    """The first `count` messages of a topic, in the order of their partitions."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker.servers, fetch_max_bytes=64 * 1_048_576, fetch_max_wait_ms=100
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


def _scored(number: int, **fields: Any) -> Outgoing:
    known = {"source": "wire", "id": f"n{number}", "time": EVENT_TIME + 5, "key": "wire", "bundle": "b@1"}
    return Outgoing(**(known | {"truncated": False, "heads": HEADS, "offset": number} | fields))


def _dead(where: Place, record: Line, message: str = "no JSON") -> list[Message]:
    return letters(where, [Dead(record, "decode", "undecodable", "DecodeError", message)])


async def test_a_scored_message_arrives_with_its_key_and_as_a_cloud_event(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        await outlet.send(place(), [_scored(1, key="schlüssel")], [], [])
    [record] = await _read(settings, names.scored, 1)
    assert record.key == "schlüssel".encode()
    assert dict(record.headers) == {
        "ce_specversion": b"1.0",
        "ce_type": b"salience.scored.v1",
        "ce_source": b"salience/news",
        "ce_id": b"wire/n1",
        "ce_time": b"2024-05-31T09:30:00.000005Z",
        "content-type": b"application/json",
    }


async def test_a_scored_message_is_valid_against_its_schema(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        await outlet.send(place(), [_scored(1)], [], [])
    [record] = await _read(settings, names.scored, 1)
    body = json.loads(record.value)
    jsonschema.validate(body, json_schemas()["scored"])
    assert body == {
        "schema_version": 1,
        "stream": "news",
        "source": "wire",
        "id": "n1",
        "time": "2024-05-31T09:30:00.000005Z",
        "bundle": "b@1",
        "truncated": False,
        "heads": json.loads(HEADS),
    }
    assert msgspec.json.decode(record.value, type=ScoredSchema).heads["sentiment"].words[0].text == "fall"


@pytest.mark.parametrize("partition", [0, 3])
async def test_scored_messages_keep_the_partition_and_the_order_of_their_events(
    topics: tuple[Settings, Topics], partition: int
) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        for part in range(2):
            scored = [_scored(part * 300 + index, key=f"k{index}") for index in range(300)]
            await outlet.send(place(partition=partition), scored, [], [])
    found = await _read(settings, names.scored, 600)
    assert {record.partition for record in found} == {partition}
    assert [json.loads(record.value)["id"] for record in found] == [f"n{index}" for index in range(600)]


async def test_a_partition_beyond_those_of_the_scored_topic_is_folded(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        await outlet.send(place(partition=PARTITIONS + 1), [_scored(0)], [], [])
    [record] = await _read(settings, names.scored, 1)
    assert record.partition == 1


async def test_more_than_one_batch_of_scored_messages_arrives_whole(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    heads = json.dumps({"sentiment": {"label": "x" * 300_000, "probability": 1, "decision": "label", "words": []}})
    async with _outlet(settings) as outlet:
        await outlet.send(place(), [_scored(index, heads=heads.encode()) for index in range(8)], [], [])
    found = await _read(settings, names.scored, 8)
    assert [json.loads(record.value)["id"] for record in found] == [f"n{index}" for index in range(8)]


async def test_scored_messages_can_be_left_out(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    async with _outlet(settings, publish_scored=False) as outlet:
        await outlet.send(place(), [_scored(0)], [], [Message(names.alerts, b"k", b"{}")])
    async with _outlet(settings) as outlet:
        await outlet.send(place(), [_scored(1)], [], [])
    await _read(settings, names.alerts, 1)
    assert [json.loads(record.value)["id"] for record in await _read(settings, names.scored, 1)] == ["n1"]


async def test_a_message_of_the_outbox_arrives_with_its_key_value_and_headers(
    topics: tuple[Settings, Topics],
) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        await outlet.send(place(), [], [], [Message(names.alerts, b"k", b'{"a":1}', [("h", b"1")])])
        await outlet.send_messages([Message(names.alerts, b"k", b'{"a":2}')])
    found = await _read(settings, names.alerts, 2)
    assert [(each.key, each.value, each.headers) for each in found] == [
        (b"k", b'{"a":1}', (("h", b"1"),)),
        (b"k", b'{"a":2}', ()),
    ]


async def test_one_message_of_the_outbox_that_fails_does_not_hold_up_the_others(
    topics: tuple[Settings, Topics],
) -> None:
    settings, names = topics
    async with _outlet(settings) as outlet:
        bad = Message(names.alerts, b"k", b"x" * 20_000_000)
        good = Message(names.alerts, b"k", b"{}")
        failures = await outlet.send_messages([bad, good])
    assert [failure is None for failure in failures] == [False, True]
    assert [each.value for each in await _read(settings, names.alerts, 1)] == [b"{}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k", b'{"text": 1}'), (None, b"\xff\xfe\x00"), (b"\x80", None), (None, None), (b"", b"")],
)
async def test_a_dead_letter_arrives_with_its_bytes_untouched(
    topics: tuple[Settings, Topics], key: bytes | None, value: bytes | None
) -> None:
    settings, names = topics
    record = Line(7, value, key, 5, [("h", b"\x00\xff"), ("h", b"second")])
    where = place(partition=2, topic=names.inputs["news"])
    async with _outlet(settings) as outlet:
        await outlet.send(where, [], _dead(where, record, "byte 0 is no UTF-8: ü"), [])
    [found] = await _read(settings, names.dead["news"], 1)
    assert (found.key, found.value, found.partition) == (key, value, 2)
    assert found.headers[:2] == (("h", b"\x00\xff"), ("h", b"second"))
    assert dict(found.headers[2:]) == {
        "salience-version": b"1",
        "salience-topic": names.inputs["news"].encode(),
        "salience-partition": b"2",
        "salience-offset": b"7",
        "salience-stage": b"decode",
        "salience-reason": b"undecodable",
        "salience-exception": b"DecodeError",
        "salience-message": "byte 0 is no UTF-8: ü".encode(),
        "salience-attempts": b"1",
    }


async def test_a_dead_letter_of_five_mebibytes_arrives_whole(topics: tuple[Settings, Topics]) -> None:
    settings, names = topics
    where = place(topic=names.inputs["news"])
    value = b"x" * 5 * 1_048_576
    async with _outlet(settings) as outlet:
        await outlet.send(where, [], _dead(where, Line(0, value)), [])
    [found] = await _read(settings, names.dead["news"], 1)
    assert found.value == value


@pytest.mark.parametrize("key", [b"k", None])
async def test_a_dead_letter_too_large_for_any_message_goes_without_its_value_and_says_so(
    topics: tuple[Settings, Topics], key: bytes | None
) -> None:
    settings, names = topics
    where = place(topic=names.inputs["news"])
    async with _outlet(settings) as outlet:
        await outlet.send(where, [], _dead(where, Line(0, b"x" * 18 * 1_048_576, key)), [])
    [found] = await _read(settings, names.dead["news"], 1)
    assert (found.key, found.value) == (key, None)
    headers = dict(found.headers)
    assert headers["salience-value"] == b"left in the table dead_letters, too large"
    assert headers["salience-reason"] == b"undecodable"


async def test_a_dead_letter_too_large_for_its_topic_goes_without_its_value_and_says_so(
    kafka: Any, prefix: str
) -> None:
    settings, names = _settings(kafka.servers, prefix), Topics(prefix)
    # A topic that others made, with the broker's own limit of 1 MiB.
    with admin.admin(settings.broker) as client:
        new = admin.NewTopic(names.dead["news"], PARTITIONS, 1)
        await asyncio.to_thread(client.create_topics, [new], wait_for_metadata=True)
    where = place(topic=names.inputs["news"])
    async with _outlet(settings) as outlet:
        dead = _dead(where, Line(0, b"x" * 2 * 1_048_576, b"k")) + _dead(where, Line(1, b"small"))
        await outlet.send(where, [], dead, [])
    found = await _read(settings, names.dead["news"], 2)
    assert {record.value for record in found} == {None, b"small"}
    [large] = [record for record in found if record.value is None]
    assert dict(large.headers)["salience-value"] == b"left in the table dead_letters, too large"


@pytest.mark.usefixtures("embedded_broker")
async def test_nothing_counts_as_sent_when_the_broker_went_away(prefix: str) -> None:
    with EmbeddedBroker() as broker:
        settings = _settings(broker.servers, prefix)
        await asyncio.to_thread(create_topics, settings.broker)
        producer = AIOKafkaProducer(bootstrap_servers=broker.servers, acks="all", request_timeout_ms=500)
        await producer.start()
        try:
            outlet = KafkaOutlet(producer, Topics(prefix).scored)
            await outlet.send(place(), [_scored(0)], [], [])
            await asyncio.to_thread(broker.stop)
            with pytest.raises(BrokerError, match=r"did not confirm messages of t\.news"):
                await outlet.send(place(), [_scored(1)], [], [])
            [failure] = await outlet.send_messages([Message(Topics(prefix).alerts, None, b"{}")])
            assert failure is not None
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(producer.stop(), 2)


async def test_a_broker_that_is_not_there_is_named_with_the_mend() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1 cannot be reached.*SALIENCE_BROKER__SERVERS"):
        async with open_producer(_settings("127.0.0.1:1", "p").broker):
            pass


async def test_a_chunk_leaves_its_messages_on_the_broker_and_the_proof_in_the_database(
    topics: tuple[Settings, Topics], database_url: str, tmp_path: Any
) -> None:
    settings, names = topics
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    sections = {"broker": settings.broker.model_dump(), "rules": {"file": str(file)}}
    where = place(partition=1, topic=names.inputs["news"])
    async with opened(database_url, **sections) as pipeline, _outlet(settings) as outlet:
        await take(pipeline, [news(0, "bankrupt"), news(1), Line(2, b"\xff")], outlet, where)
        await pipeline.flush()
        row = await only(pipeline.database, progress)
        assert (row["stored"], row["published"]) == (3, 3)
        assert (await only(pipeline.database, outbox))["sent_at"] is not None
        assert len(await rows(pipeline.database, alerts)) == 1
    [alert] = await _read(settings, names.alerts, 1)
    jsonschema.validate(json.loads(alert.value), json_schemas()["alert"])
    assert alert.key == b"bad-news//news/wire/n0"
    for record in await _read(settings, names.scored, 2):
        jsonschema.validate(json.loads(record.value), json_schemas()["scored"])
    [letter] = await _read(settings, names.dead["news"], 1)
    assert letter.value == b"\xff"


async def test_a_stream_without_heads_has_scored_messages_too(
    topics: tuple[Settings, Topics], database_url: str
) -> None:
    settings, names = topics
    where = place("chat", topic=names.inputs["chat"])
    async with opened(database_url) as pipeline, _outlet(settings) as outlet:
        await take(pipeline, [chat(0)], outlet, where)
    [record] = await _read(settings, names.scored, 1)
    body = json.loads(record.value)
    assert (body["stream"], body["heads"], record.key) == ("chat", {}, b"k1")
