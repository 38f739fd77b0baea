"""Sending events to their topic with kafka-python: CloudEvents in binary form wherever the event allows it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.serializer import Serializer

from pipeline.admin import admin, existing
from pipeline.security import client_options, unreachable
from pipeline.settings import BrokerSettings
from pipeline.topics import Topics
from schemas.errors import BrokerError, ConfigError, UsageError
from schemas.events import Line, Record

# Milliseconds until a topic that does not answer is given up, and until a closing producer is.
_ANSWER = 15_000
_FIRST_ANSWER = 5_000
_REQUEST = 8 * 1_048_576
_NOTHING = object()


class _Value(Serializer):  # type: ignore[misc]
    """kafka-python refuses a record that has neither key nor value, which brokers take; so it is told of one."""

    def serialize(self, topic: str, headers: Any, data: Any) -> Any:
        return None if data is _NOTHING else data


class Sender:
    """A producer for the command line and the demo. Use as a context manager."""

    def __init__(self, broker: BrokerSettings) -> None:
        self._broker = broker
        self._topics = Topics(broker.prefix)
        self._failed: list[str] = []
        try:
            self._producer = KafkaProducer(
                acks="all",
                client_id="salience-send",
                linger_ms=5,
                max_block_ms=_ANSWER,
                max_request_size=_REQUEST,
                bootstrap_timeout_ms=_FIRST_ANSWER,
                allow_auto_create_topics=False,
                value_serializer=_Value(),
                **client_options(broker),
            )
        except (KafkaError, OSError) as error:
            raise BrokerError(unreachable(broker, error)) from error

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        # What is still unsent now has been told by flush(), or nobody waits for it.
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=5)

    def send(
        self,
        records: Iterable[Record],
        stream: str,
        *,
        rate: float | None = None,
        stop: threading.Event | None = None,
        each: Callable[[], None] = lambda: None,
    ) -> int:
        """Send records, at most `rate` a second, until `stop` is set; returns how many the broker has confirmed.

        Raises:
            BrokerError: the broker is away, or refuses one.
            ConfigError: the topic does not exist.
        """
        topic = self._topics.inputs[stream]
        self._require([topic])
        begun = time.monotonic()
        count = 0
        for record in records:
            if rate and not _wait_for(begun + count / rate, stop):
                break
            if stop is not None and stop.is_set():
                break
            self.post(topic, record)
            count += 1
            each()
        self.flush()
        return count

    def post(self, topic: str, record: Record) -> None:
        """Hand one record to the producer."""
        value, headers = as_cloud_event(record, topic)
        self._send(f"event {record.offset + 1}", topic, value, record.key, headers)

    def resend(self, letters: Sequence[tuple[int, str, Line]], confirmed: Callable[[int], object]) -> None:
        """Send dead letters to the topics they came from, bytes untouched; tells the number of each that arrived.

        Raises:
            BrokerError: the broker is away, or refuses one.
            ConfigError: a topic does not exist.
            UsageError: one cannot be sent.
        """
        self._require(list(dict.fromkeys(topic for _, topic, _ in letters)))
        for number, topic, line in letters:
            headers = [(name, value) for name, value in line.headers if not name.startswith("salience-")]
            sent = self._send(f"dead letter {number}", topic, line.value, line.key, headers)
            sent.add_callback(lambda _, number=number: confirmed(number))
        self.flush("replay again, what arrived is marked as replayed")

    def _send(
        self, what: str, topic: str, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]]
    ) -> Any:
        data = _NOTHING if value is None and key is None else value
        try:
            future = self._producer.send(topic, data, key=key, headers=headers)
        except (KafkaError, AssertionError) as error:
            raise BrokerError(f"{what} was not sent to {topic}: {_line(error)}") from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{what} cannot be sent to {topic}: {_line(error)}") from error
        return future.add_errback(lambda error: self._failed.append(f"{what}: {_line(error)}"))

    def flush(self, mend: str = "send the file again, what arrived is recognised") -> None:
        """Wait until everything is confirmed.

        Raises:
            BrokerError: something was not.
        """
        try:
            self._producer.flush(timeout=30)
        except KafkaError as error:
            raise BrokerError(unreachable(self._broker, error)) from error
        if self._failed:
            raise BrokerError(
                f"the broker did not confirm {len(self._failed)} events, the first is {self._failed[0]}; {mend}"
            )

    def _require(self, topics: list[str]) -> None:
        # Asking the producer would make the topic on a broker that makes what it is asked for.
        with admin(self._broker) as client:
            there = existing(client, topics)
        missing = [topic for topic in topics if topic not in there]
        if missing:
            names = ", ".join(missing)
            raise ConfigError(
                f"the broker {self._broker.servers} has no topic {names}; run `salience topics create`"
            )


def as_cloud_event(record: Record, topic: str) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """Value and headers of the binary form; a record that lacks id, source or time goes as it is."""
    plain = record.value, list(record.headers or ())
    if record.value is None or plain[1]:
        return plain
    try:
        event: Any = msgspec.json.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return plain
    if not isinstance(event, dict) or "specversion" in event:
        return plain
    attributes = {name: event.pop(name, None) for name in ("id", "source", "time")}
    if not all(isinstance(value, str) and value for value in attributes.values()):
        return plain
    try:
        headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    except UnicodeEncodeError:
        return plain
    fixed = [("ce_specversion", b"1.0"), ("ce_type", topic.encode()), ("content-type", b"application/json")]
    return msgspec.json.encode(event), fixed + headers


def _wait_for(moment: float, stop: threading.Event | None) -> bool:
    left = moment - time.monotonic()
    if left <= 0:
        return True
    return not (stop or threading.Event()).wait(left)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
