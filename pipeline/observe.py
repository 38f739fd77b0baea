"""What a worker shows of itself: metrics, and whether it makes progress."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeline.work import Applied
from schemas.events import Place

log = structlog.get_logger("salience.flow")

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Observer:
    """Metrics of one process, in a registry of their own, and the stages' times for the benchmark."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._events = Counter(
            "salience_events",
            "Records handled, by what became of them",
            ["stream", "outcome"],
            registry=self.registry,
        )
        self._dead = Counter(
            "salience_dead", "Dead letters", ["stream", "stage", "reason"], registry=self.registry
        )
        self._alerts = Counter("salience_alerts", "Alerts raised", ["stream"], registry=self.registry)
        self._stages = Histogram(
            "salience_stage_seconds",
            "Time of a chunk in a stage",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._in_work = Gauge("salience_chunks_in_work", "Chunks not yet acknowledged", registry=self.registry)
        self._outages = Counter(
            "salience_outages", "Failures that were waited for", ["reason"], registry=self.registry
        )
        self._progress = Gauge(
            "salience_last_progress_timestamp_seconds",
            "When a chunk was last acknowledged",
            registry=self.registry,
        )
        self._watermark = Gauge(
            "salience_watermark_timestamp_seconds", "Event time of a stream", ["stream"], registry=self.registry
        )
        self._held_by = Gauge(
            "salience_watermark_waits_for_partitions",
            "Partitions without an owner, or without an event so far, that hold a stream's watermark",
            ["stream"],
            registry=self.registry,
        )
        self._unsent = Gauge("salience_outbox_waiting", "Messages not sent yet", registry=self.registry)
        self._unsent_age = Gauge(
            "salience_outbox_oldest_seconds", "Age of the oldest message not sent yet", registry=self.registry
        )
        self._notified = Counter(
            "salience_notifications",
            "What became of notifications",
            ["receiver", "outcome"],
            registry=self.registry,
        )
        self._untold = Gauge(
            "salience_notifications_waiting",
            "Notifications that wait for a receiver, those at rest and in silences aside",
            ["receiver"],
            registry=self.registry,
        )
        self._chunks = 0
        self._moved = time.monotonic()
        self.cpu: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times one pass of a stage: seconds of the clock, and CPU seconds of the process."""
        begun, used = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - begun)
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - used

    def applied(self, place: Place, applied: Applied) -> None:
        """Count what became of a chunk, and log each dead letter with its reason."""
        stream = place.stream
        for outcome, count in (
            ("stored", applied.new),
            ("repeated", applied.repeated),
            ("dead", len(applied.dead)),
        ):
            if count:
                self._events.labels(stream, outcome).inc(count)
        for letter in applied.dead:
            self._dead.labels(stream, letter.stage, letter.reason).inc()
            log.info(
                "dead letter",
                reason=letter.reason,
                stage=letter.stage,
                event_id=letter.event,
                topic=place.topic,
                partition=place.partition,
                offset=letter.record.offset,
                message=letter.message,
            )
        if applied.alerts:
            self._alerts.labels(stream).inc(applied.alerts)

    def outage(self, reason: str) -> None:
        self._outages.labels(reason).inc()

    def clock(self, stream: str, watermark: int, waits_for: int) -> None:
        """Where a stream's time stands, microseconds, and how many partitions hold it."""
        self._watermark.labels(stream).set(watermark / 1_000_000)
        self._held_by.labels(stream).set(waits_for)

    def outbox(self, waiting: int, oldest: int | None, now: int) -> None:
        """How many messages wait, and since when, microseconds."""
        self._unsent.set(waiting)
        self._unsent_age.set(0 if oldest is None else max(0, now - oldest) / 1_000_000)

    def notified(self, receiver: str, outcome: str, count: int = 1) -> None:
        """Outcomes: sent, failed, withheld."""
        if count:
            self._notified.labels(receiver, outcome).inc(count)

    def untold(self, waiting: Mapping[str, int]) -> None:
        """How many notifications wait for each receiver, those at rest and in silences aside."""
        self._untold.clear()
        for receiver, count in waiting.items():
            self._untold.labels(receiver).set(count)

    def chunk_begun(self) -> None:
        if self._chunks == 0:
            self._moved = time.monotonic()
        self._chunks += 1
        self._in_work.set(self._chunks)

    def chunk_done(self) -> None:
        self._chunks -= 1
        self._in_work.set(self._chunks)

    def acknowledged(self) -> None:
        self._moved = time.monotonic()
        self._progress.set_to_current_time()

    def stalled(self) -> float:
        """Seconds for which there has been work but no acknowledgement."""
        return time.monotonic() - self._moved if self._chunks else 0.0

    def render(self) -> bytes:
        return generate_latest(self.registry)
