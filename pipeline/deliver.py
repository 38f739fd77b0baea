"""Messages to the topics, each chunk's confirmed by the broker before its acknowledgement."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from msgspec import UNSET

from pipeline.times import rfc3339
from pipeline.work import PARTITION_HEADER, Message, Outgoing
from schemas.errors import BrokerError
from schemas.events import Dead, Place
from schemas.messages import SCHEMA_VERSION, DeadLetter, Scored

Headers = Sequence[tuple[str, bytes]]

_SCORED_TYPE = f"salience.scored.v{SCHEMA_VERSION}".encode()


class Outlet(Protocol):
    """Where messages go."""

    async def send(
        self, place: Place, scored: Sequence[Outgoing], dead: Sequence[Message], messages: Sequence[Message]
    ) -> None:
        """Send all of it and wait until the broker has it.

        Raises:
            BrokerError: it could not be confirmed; sending again is right.
        """


class NoOutlet:
    """Sends nothing: a back-fill notifies nobody unless told to."""

    async def send(
        self, place: Place, scored: Sequence[Outgoing], dead: Sequence[Message], messages: Sequence[Message]
    ) -> None:
        return


class MemoryOutlet:
    """Keeps what is sent, for tests. `fail` raises that error on the next sends."""

    def __init__(self) -> None:
        self.scored: list[Outgoing] = []
        self.dead: list[Message] = []
        self.messages: list[Message] = []
        self.fail: list[Exception] = []

    async def send(
        self, place: Place, scored: Sequence[Outgoing], dead: Sequence[Message], messages: Sequence[Message]
    ) -> None:
        if self.fail:
            raise self.fail.pop(0)
        self.scored += scored
        self.dead += dead
        self.messages += messages

    async def send_messages(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Keep them, but for those at whose turn there is something in `fail`."""
        failures = [self.fail.pop(0) if self.fail else None for _ in messages]
        self.messages += [each for each, failure in zip(messages, failures, strict=True) if failure is None]
        return failures


class KafkaOutlet:
    """Sends to Kafka. Scored messages keep the partition of their event, and so the order per key."""

    def __init__(self, producer: AIOKafkaProducer, scored_topic: str, publish_scored: bool = True) -> None:
        self._producer = producer
        self._scored_topic = scored_topic
        self._publish_scored = publish_scored

    async def send(
        self, place: Place, scored: Sequence[Outgoing], dead: Sequence[Message], messages: Sequence[Message]
    ) -> None:
        try:
            waiting: list[Any] = []
            if self._publish_scored and scored:
                waiting += await self._send_scored(place, scored)
            waiting += [await self._send_one(message) for message in messages]
            waiting += [await self._send_dead(place, letter) for letter in dead]
            if waiting:
                await asyncio.gather(*waiting)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerError(
                f"the broker did not confirm messages of {place.topic}: {type(error).__name__} {error}".strip()
            ) from error

    async def send_messages(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Send messages that belong to no chunk in work; returns for each why it was not confirmed, or None."""

        async def confirm(message: Message) -> Exception | None:
            try:
                await (await self._send_one(message))
            except Exception as error:
                # One that the client refuses must not hold up the others.
                return error
            return None

        return await asyncio.gather(*map(confirm, messages))

    async def _send_scored(self, place: Place, scored: Sequence[Outgoing]) -> list[Any]:
        count = len(await self._producer.partitions_for(self._scored_topic) or {0})
        partition = place.partition % count
        source = f"salience/{place.stream}".encode()
        waiting = []
        batch = self._producer.create_batch()
        for each in scored:
            key, value, headers = _scored_message(place.stream, source, each)
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                waiting.append(await self._producer.send_batch(batch, self._scored_topic, partition=partition))
                batch = self._producer.create_batch()
                # The first record of a batch is always taken.
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        waiting.append(await self._producer.send_batch(batch, self._scored_topic, partition=partition))
        return waiting

    async def _send_one(self, message: Message) -> Any:
        partition = None
        for name, value in message.headers:
            if name == PARTITION_HEADER:
                # Where the scored messages of the key are, which keep the partition of their event.
                partition = int(value) % len(await self._producer.partitions_for(message.topic) or {0})
        return await self._producer.send(
            message.topic, message.value, key=message.key, partition=partition, headers=list(message.headers)
        )

    async def _send_dead(self, place: Place, letter: Message) -> Any:
        count = len(await self._producer.partitions_for(letter.topic) or {0})
        partition = place.partition % count
        try:
            sent = await self._send_to(partition, letter, letter.value, letter.headers)
        except MessageSizeTooLargeError:
            return await self._send_without_value(letter, partition)
        return asyncio.ensure_future(self._confirm_dead(sent, letter, partition))

    async def _confirm_dead(self, sent: Any, letter: Message, partition: int) -> None:
        try:
            await sent
        except MessageSizeTooLargeError:  # the topic's own limit
            await (await self._send_without_value(letter, partition))

    async def _send_without_value(self, letter: Message, partition: int) -> Any:
        # The table has the bytes; the topic says so rather than holding up everything behind it.
        headers = [*letter.headers, ("salience-value", b"left in the table dead_letters, too large")]
        return await self._send_to(partition, letter, None, headers)

    async def _send_to(self, partition: int, letter: Message, value: bytes | None, headers: Headers) -> Any:
        if letter.key is None and value is None:  # aiokafka's `send` refuses this, its batches do not
            batch = self._producer.create_batch()
            batch.append(key=None, value=None, timestamp=None, headers=list(headers))
            return await self._producer.send_batch(batch, letter.topic, partition=partition)
        return await self._producer.send(
            letter.topic, value, key=letter.key, partition=partition, headers=list(headers)
        )


def letters(place: Place, dead: Sequence[Dead]) -> list[Message]:
    """Dead letters as messages: original key, value and headers, and ours beside them."""
    return [
        Message(
            f"dlq.{place.topic}",
            each.record.key,
            each.record.value,
            [
                *(each.record.headers or ()),
                *DeadLetter(
                    topic=place.topic,
                    partition=place.partition,
                    offset=each.record.offset,
                    stage=each.stage,
                    reason=each.reason,
                    exception=each.exception,
                    message=each.message,
                    attempts=each.attempts,
                ).headers(),
            ],
        )
        for each in dead
    ]


def _scored_message(stream: str, ce_source: bytes, each: Outgoing) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    time = rfc3339(each.time)
    value = msgspec.json.encode(
        Scored(
            stream=stream,
            source=each.source,
            id=each.id,
            time=time,
            bundle=each.bundle,
            truncated=each.truncated,
            truncated_share=UNSET if each.truncated_share is None else each.truncated_share,
            heads=msgspec.Raw(each.heads),
        )
    )
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", _SCORED_TYPE),
        ("ce_source", ce_source),
        ("ce_id", f"{each.source}/{each.id}".encode()),
        ("ce_time", time.encode()),
        ("content-type", b"application/json"),
    ]
    return each.key.encode(), value, headers
