"""Going on with topics that are not as the database knows them: a person has looked, and accepts what is lost."""

import asyncio

from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import TopicPartition
from msgspec import Struct

from pipeline import admin
from pipeline.security import client_options, unreachable
from pipeline.settings import Settings
from pipeline.store import migrate, owners
from pipeline.store.database import Database
from pipeline.times import now
from pipeline.topics import Topics
from schemas.errors import BrokerError, ConfigError
from schemas.events import Place

# Milliseconds in which a broker says that it has no such record.
_ANSWER = 2_000

# First and next offset of each partition, as the broker has it.
Ranges = dict[Place, tuple[int, int]]


class Accepted(Struct):
    """What was accepted of one partition, or of a topic (partition None)."""

    topic: str
    partition: int | None
    what: str
    records: int


async def accept(settings: Settings) -> list[Accepted]:
    """End the progress of former incarnations of the topics, and go on where a partition begins or ends now.

    Raises:
        ConfigError: a topic is missing.
        OutageError: broker or database are away.
    """
    ranges = await asyncio.to_thread(_look, settings)
    database = Database(settings.database)
    try:
        await migrate.check(database)
        done = await _accept_incarnations(database, ranges)
        return done + await _accept_gaps(database, ranges, settings)
    finally:
        await database.close()


async def _accept_incarnations(database: Database, ranges: Ranges) -> list[Accepted]:
    topics = {place.topic: place for place in ranges}
    done = [
        Accepted(each.topic, None, f"made again; {each.incarnation} has ended", each.stored)
        for each in await owners.former(database, list(topics.values()))
    ]
    for place in topics.values():
        await owners.end_former(database, place, now())
    return done


async def _accept_gaps(database: Database, ranges: Ranges, settings: Settings) -> list[Accepted]:
    done = []
    for place, standing in (await owners.read(database, list(ranges))).items():
        begin, end = ranges[place]
        at = standing.stored
        if not standing.known or begin <= at <= end:
            continue
        if begin > at:
            what, there = "deleted before they were read", begin
        elif await asyncio.to_thread(_is_gone, settings, place, at):
            what, there = "lost by the broker after they were read", end
        else:
            # Some brokers tell an end that is too low; what they can give is there.
            continue
        await owners.go_on_at(database, place, there, now())
        done.append(Accepted(place.topic, place.partition, what, abs(there - at)))
    return done


def _is_gone(settings: Settings, place: Place, offset: int) -> bool:
    """Whether the broker refuses to read on at `offset`."""
    partition = TopicPartition(place.topic, place.partition)
    consumer = KafkaConsumer(
        group_id=None, enable_auto_commit=False, auto_offset_reset="none", **client_options(settings.broker)
    )
    try:
        consumer.assign([partition])
        consumer.seek(partition, offset)
        consumer.poll(timeout_ms=_ANSWER)
    except OffsetOutOfRangeError:
        return True
    except KafkaError as error:
        raise BrokerError(unreachable(settings.broker, error)) from error
    finally:
        consumer.close(autocommit=False)
    return False


def _look(settings: Settings) -> Ranges:
    topics = Topics(settings.broker.prefix)
    with admin.admin(settings.broker) as client:
        cluster = admin.cluster_id(client)
        found = admin.existing(client, list(topics.inputs.values()))
        missing = [name for name in topics.inputs.values() if name not in found]
        if missing:
            raise ConfigError(
                f"the broker {settings.broker.servers} has no topic {', '.join(missing)}; "
                "run `salience topics create`"
            )
        ranges = {}
        for stream, topic in topics.inputs.items():
            info = found[topic]
            for number, each in _ranges(client, info).items():
                ranges[Place(stream, cluster, topic, info.incarnation, number)] = each
        return ranges


def _ranges(client: KafkaAdminClient, topic: admin.TopicInfo) -> dict[int, tuple[int, int]]:
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    begin = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
    end = client.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    return {each.partition: (begin[each].offset, end[each].offset) for each in partitions}
