"""Topics and what the broker says of itself, through kafka-python's admin client."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError
from msgspec import Struct

from pipeline.security import client_options, unreachable
from pipeline.settings import BrokerSettings
from pipeline.topics import Topics
from schemas.errors import BrokerError, ConfigError

# Milliseconds to wait for the first answer, and for each later one.
_FIRST_ANSWER = 5_000
_ANSWER = 30_000
# The bytes that a dead letter may have: an event that was too large for us still fits.
DEAD_LETTER_BYTES = 16 * 1_048_576
_UNKNOWN_TOPIC = 3


class TopicInfo(Struct, frozen=True):
    """A topic as the broker has it; `incarnation` changes when it is deleted and made again."""

    name: str
    partitions: int
    replication: int
    incarnation: str


@contextlib.contextmanager
def admin(settings: BrokerSettings) -> Iterator[KafkaAdminClient]:
    """A connected admin client.

    Raises:
        BrokerError: the broker cannot be reached, with what may be wrong.
    """
    client = None
    try:
        client = KafkaAdminClient(
            client_id="salience-admin",
            bootstrap_timeout_ms=_FIRST_ANSWER,
            request_timeout_ms=_ANSWER,
            **client_options(settings),
        )
        yield client
    except (KafkaError, OSError) as error:
        raise BrokerError(unreachable(settings, error)) from error
    finally:
        if client is not None:
            client.close()


def cluster_id(client: KafkaAdminClient) -> str:
    return str(client.describe_cluster()["cluster_id"])


def existing(client: KafkaAdminClient, names: list[str]) -> dict[str, TopicInfo]:
    """Those of the topics that are there, by name."""
    found = {}
    for topic in client.describe_topics(names):
        if topic["error_code"] == _UNKNOWN_TOPIC:
            continue
        if topic["error_code"]:
            raise BrokerError(
                f"the broker does not describe the topic {topic['name']} (error {topic['error_code']}); "
                "it may still be starting, or this user may not see it"
            )
        partitions: list[dict[str, Any]] = topic["partitions"]
        replication = len(partitions[0]["replica_nodes"]) if partitions else 0
        name = topic["name"]
        found[name] = TopicInfo(name, len(partitions), replication, str(topic["topic_id"] or "unknown"))
    return found


def create_topics(settings: BrokerSettings) -> tuple[list[str], list[str]]:
    """Make the topics that are missing; returns (made, already there)."""
    topics = Topics(settings.prefix)
    with admin(settings) as client:
        there = existing(client, topics.all)
        missing = [name for name in topics.all if name not in there]
        if missing:
            client.create_topics([_new_topic(settings, name) for name in missing], wait_for_metadata=True)
        return missing, list(there)


def describe(settings: BrokerSettings) -> tuple[str, dict[str, TopicInfo]]:
    """The cluster's id and our topics.

    Raises:
        ConfigError: a topic is missing.
    """
    cluster, found = look(settings)
    missing = [name for name in Topics(settings.prefix).all if name not in found]
    if missing:
        raise ConfigError(
            f"the broker {settings.servers} has no topic {', '.join(missing)}; run `salience topics create`"
        )
    return cluster, found


def look(settings: BrokerSettings) -> tuple[str, dict[str, TopicInfo]]:
    """The cluster's id and those of our topics that are there."""
    with admin(settings) as client:
        return cluster_id(client), existing(client, Topics(settings.prefix).all)


def _new_topic(settings: BrokerSettings, name: str) -> NewTopic:
    configs = None
    if name.startswith("dlq."):
        configs = {"max.message.bytes": str(DEAD_LETTER_BYTES)}
    elif name == Topics(settings.prefix).alerts:
        # The latest state of each alert is kept, until the topic's retention takes it or a tombstone does.
        configs = {"cleanup.policy": "compact,delete"}
    return NewTopic(name, settings.partitions, settings.replication, topic_configs=configs)
