"""What a round sends: numbered events on all streams, some with a word that a rule knows, and the sender."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer
from workers import numbered

from schemas.labels import STREAMS

ALARM, BRITTLE = "alarm", "brittle"
# Every so many events have the word.
_ALARMS, _BRITTLES = 50, 97
# Sender's patience with a broker that is away, milliseconds.
_PATIENCE = 300_000
# So that added partitions are used soon, milliseconds.
_METADATA_AGE = 2_000

RULES = "rules:\n" + "".join(
    f"  - name: {ALARM}-{stream}\n    kind: match\n    stream: {stream}\n    when: {{words: {ALARM}}}\n"
    for stream in STREAMS
)


class Sent(NamedTuple):
    """An event as the checker knows it; `number` counts within its key."""

    id: str
    stream: str
    key: str
    number: int
    alarm: bool = False
    brittle: bool = False


def script(count: int, seed: int = 1, brittle: bool = False) -> tuple[list[Sent], list[bytes]]:
    """The events of a round, and their bytes."""
    sent, values = [], []
    for index, (stream, key, event) in enumerate(numbered(count, seed)):
        alarm, breaks = index % _ALARMS == 7, brittle and index % _BRITTLES == 11
        words = [event["text"], *([ALARM] if alarm else []), *([BRITTLE] if breaks else [])]
        if stream == "behavior":
            # Its text is the item's, and the score is the item's too.
            event["item"] = "-".join([event["item"], *words[1:]])
        event["text"] = " ".join(words)
        sent.append(Sent(event["id"], stream, key, event["attributes"]["n"], alarm, breaks))
        values.append(json.dumps(event).encode())
    return sent, values


class Feeder:
    """Sends the events from a thread of its own, at `rate` a second, never beyond `allow`."""

    def __init__(
        self, servers: str, prefix: str, sent: Sequence[Sent], values: Sequence[bytes], rate: float
    ) -> None:
        self.sent = 0
        self.allowed = 0
        self._rate = rate
        self._prefix = prefix
        self._events = list(zip(sent, values, strict=True))
        self._more = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._producer = KafkaProducer(
            bootstrap_servers=servers,
            linger_ms=2,
            delivery_timeout_ms=_PATIENCE,
            max_block_ms=_PATIENCE,
            metadata_max_age_ms=_METADATA_AGE,
            reconnect_backoff_max_ms=500,
        )
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def allow(self, count: int) -> None:
        """So many events may be sent in all."""
        with self._more:
            self.allowed = max(self.allowed, min(count, len(self._events)))
            self._more.notify()

    def finished(self) -> bool:
        """Whether the broker has all events; raises what kept one from it."""
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def close(self) -> None:
        """Send nothing more."""
        with self._more:
            self._ended = True
            self._more.notify()
        self._thread.join(30)
        self._producer.close(5)

    def _run(self) -> None:
        try:
            futures = [self._send(*event) for event in self._paced()]
            self._producer.flush()
            for future in futures:
                future.get(timeout=_PATIENCE / 1000)
        except BaseException as error:
            self._error = error

    def _send(self, event: Sent, value: bytes) -> Any:
        future = self._producer.send(f"{self._prefix}.{event.stream}", value, key=event.key.encode())
        self.sent += 1
        return future

    def _paced(self) -> Iterator[tuple[Sent, bytes]]:
        due = time.monotonic()
        for event in self._events:
            due = max(due + 1 / self._rate, time.monotonic() - 0.1)
            with self._more:
                self._more.wait_for(lambda: self._ended or self.sent < self.allowed)
                self._more.wait_for(lambda: self._ended, timeout=max(0.0, due - time.monotonic()))
                if self._ended:
                    return
            yield event
