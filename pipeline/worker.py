"""The Faust worker: reads chunks from Kafka, sends them along their lanes, acknowledges in order."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import faust
import structlog
from yarl import URL

from pipeline.admin import TopicInfo, describe
from pipeline.compose import Pipeline, compose
from pipeline.deliver import KafkaOutlet
from pipeline.lane import Lane
from pipeline.pages import Pages
from pipeline.producer import open_producer
from pipeline.security import tls_context
from pipeline.settings import BrokerSettings, Settings
from pipeline.store import outbox
from pipeline.times import now
from pipeline.topics import Topics
from pipeline.work import Applied
from schemas.errors import ConfigError, SalienceError
from schemas.events import Chunk, Place
from schemas.labels import STREAMS

log = structlog.get_logger("salience.worker")

# Seconds that chunks in work may take when their partitions are taken away.
_REVOCATION = 5.0
# Seconds between two looks at what waits to be written down or sent.
_TIMER = 2.0
# Faust's buffers count chunks here; its default of 4,096 would draw a whole backlog into memory.
_BUFFERED_CHUNKS = 8
# Seconds a thread may hold the interpreter while another waits: SQLite's and the model's have little to do in
# Python, but are asked for it dozens of times a chunk (default: 0.005).
_SWITCH = 0.001
# Objects made since the last look of the garbage collector; a chunk makes some ten thousand.
_COLLECT_AFTER = 50_000


class App(faust.App):
    """A Faust app without web server, tables or folders of its own."""

    chunk: int
    read_committed: bool
    lanes: list[Lane]

    def _create_directories(self) -> None:
        return

    async def before_revocation(self) -> None:
        """Partitions are taken away: what is in work may finish, for a few seconds; nothing new begins."""
        for lane in self.lanes:
            lane.hold()
        await asyncio.gather(*(lane.drain(_REVOCATION) for lane in self.lanes))

    def after_assignment(self) -> None:
        """Partitions are ours again."""
        for lane in self.lanes:
            lane.go_on()


class Worker:
    """One process of the consumer group. `run` returns the exit status."""

    def __init__(self, settings: Settings, index: int = 0) -> None:
        self._settings = settings
        self._topics = Topics(settings.broker.prefix)
        self._port = settings.worker.port + index if settings.worker.port else 0
        self._stop = asyncio.Event()

    @property
    def told_to_stop(self) -> bool:
        return self._stop.is_set()

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT (0), or until something stays away for too long (1).

        Raises:
            ConfigError: it cannot start like this.
            OutageError: broker or database are away at the start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        cluster, topics = await asyncio.to_thread(describe, self._settings.broker)
        async with await compose(self._settings) as pipeline, open_producer(self._settings.broker) as producer:
            pages = Pages(pipeline.observer, self._settings.worker.stalled_after)
            if self._port:
                await pages.start(self._settings.worker.host, self._port)
            outlet = KafkaOutlet(producer, self._topics.scored, self._settings.worker.publish_scored)
            app = self._app(pipeline, outlet, cluster, topics, pages)
            timer = asyncio.create_task(self._timer(pipeline, outlet))
            _tune_interpreter()
            await app.start()
            log.info("started", bundle=pipeline.scorer.bundle, group=self._settings.broker.group, port=self._port)
            try:
                status = await self._watch(app)
            finally:
                timer.cancel()
                pages.stopping = True
            await self._shut_down(app, pipeline, status)
            await pages.stop()
        return status

    def _app(
        self, pipeline: Pipeline, outlet: KafkaOutlet, cluster: str, topics: dict[str, TopicInfo], pages: Pages
    ) -> App:
        app = App(self._settings.broker.group, **_faust_options(self._settings.broker))
        app.chunk = self._settings.worker.chunk
        app.read_committed = self._settings.broker.read_committed
        app.lanes = []
        for stream in STREAMS:
            lane = pipeline.lane(stream, outlet)
            app.lanes.append(lane)
            self._agent(app, stream, lane, cluster, topics[self._topics.inputs[stream]])

        async def assigned(*_: Any, **__: Any) -> None:
            pages.assigned = True

        app.on_partitions_assigned.connect(assigned, weak=False)
        return app

    def _agent(self, app: App, stream: str, lane: Lane, cluster: str, topic: TopicInfo) -> None:
        async def body(chunks: Any) -> None:
            async for event in chunks.noack().events():
                place = Place(stream, cluster, topic.name, topic.incarnation, event.message.partition)
                await lane.submit(Chunk(place, event.message.value), partial(_acknowledge, event))

        channel = app.topic(topic.name, key_serializer="raw", value_serializer="raw")
        app.agent(channel, name=f"salience.{stream}")(body)

    async def _watch(self, app: App) -> int:
        """Wait for the end; returns the exit status."""
        stop = asyncio.create_task(self._stop.wait())
        crash = asyncio.create_task(app._crashed.wait())
        ends: set[asyncio.Future[Any]] = {stop, crash, *(lane.failed for lane in app.lanes)}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        crash.cancel()
        for lane in app.lanes:
            if lane.failed.done():
                _tell(lane.failed.result())
                return 1
        if not self._stop.is_set():
            log.error("stopping", reason="faust", message=f"Faust stopped by itself: {app.crash_reason!r}")
            return 1
        return 0

    async def _shut_down(self, app: App, pipeline: Pipeline, status: int) -> None:
        """Finish what is in work, write down what was confirmed, leave the group; within the deadline."""
        deadline = asyncio.get_running_loop().time() + self._settings.worker.shutdown_timeout
        try:
            async with asyncio.timeout_at(deadline):
                app.consumer.stop_flow()
                for lane in app.lanes:
                    lane.hold()
                if status == 0:
                    await asyncio.gather(
                        *(lane.drain(self._settings.worker.shutdown_timeout * 0.6) for lane in app.lanes)
                    )
                for lane in app.lanes:
                    lane.abandon()
                await app.consumer.commit()
                await pipeline.flush()
                await app.stop()
            log.info("stopped")
        except TimeoutError:
            log.warning(
                "stopped",
                reason="deadline",
                message="the shutdown took too long; what is not acknowledged comes again",
            )
        except Exception as error:
            log.warning("stopped", reason="outage", message=f"{error}; what is not acknowledged comes again")

    async def _timer(self, pipeline: Pipeline, outlet: KafkaOutlet) -> None:
        """Write down what the broker confirmed, and send what was left in the outbox."""
        while True:
            await asyncio.sleep(_TIMER)
            try:
                await pipeline.flush()
                await _sweep(pipeline, outlet)
            except SalienceError as error:
                log.warning("timer", reason=error.reason, message=str(error))
            except Exception as error:
                # The next round may do better, and the chunks in work do not depend on it.
                log.exception("timer", reason="bug", message=str(error))


def _tune_interpreter() -> None:
    """What the start has made stays for good, and chunks die young: the collector may look seldom, elsewhere."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
    sys.setswitchinterval(_SWITCH)


def _acknowledge(event: Any, applied: Applied) -> None:
    event.ack()


async def _sweep(pipeline: Pipeline, outlet: KafkaOutlet) -> None:
    messages = await outbox.claim(pipeline.database, now())
    if not messages:
        return
    failures = await outlet.send_messages(messages)
    sent = [message.outbox for message, failure in zip(messages, failures, strict=True) if failure is None]
    await outbox.mark_sent(pipeline.database, [row for row in sent if row is not None], now())
    for message, failure in zip(messages, failures, strict=True):
        if failure is not None and message.outbox is not None:
            log.warning("not sent", reason="broker", topic=message.topic, message=str(failure))
            await outbox.mark_failed(pipeline.database, message.outbox, str(failure))


def _tell(error: BaseException) -> None:
    if isinstance(error, SalienceError):
        log.error("stopping", reason=error.reason, message=str(error))
    else:
        log.error("stopping", reason="bug", message=f"{type(error).__name__}: {error}", exc_info=error)


def _faust_options(broker: BrokerSettings) -> dict[str, Any]:
    return {
        "broker": [URL(f"salience://{server}") for server in broker.server_list],
        "broker_credentials": _credentials(broker),
        "broker_session_timeout": broker.session_timeout,
        "broker_heartbeat_interval": broker.heartbeat_interval,
        "broker_request_timeout": max(90.0, broker.session_timeout + 5),
        "broker_max_poll_interval": broker.max_poll_interval,
        "broker_commit_interval": 1.0,
        "consumer_auto_offset_reset": broker.offset_reset,
        "stream_buffer_maxsize": _BUFFERED_CHUNKS,
        "stream_wait_empty": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        "autodiscover": False,
        "store": "memory://",
    }


def _credentials(broker: BrokerSettings) -> Any:
    context = tls_context(broker)
    if broker.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=broker.username,
            password=broker.password.get_secret_value(),
            mechanism=broker.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def run(settings: Settings, index: int, at_end: Callable[[int], None]) -> NoReturn:
    """Run a worker in this process, and end the process with its exit status (0, 1, or 2 for bad settings)."""
    asyncio.run(_run(settings, index, at_end))
    raise AssertionError("the worker ends the process")


async def _run(settings: Settings, index: int, at_end: Callable[[int], None]) -> None:
    status = 1
    worker = Worker(settings, index)
    try:
        status = await worker.run()
    except SalienceError as error:
        _tell(error)
        status = 2 if isinstance(error, ConfigError) else 1
        if worker.told_to_stop:
            # It was still at its start, with nothing in work.
            status = 0
    except BaseException as error:
        _tell(error)
    # Threads of the client libraries may wait for a broker that is away; nothing of ours is left to do.
    at_end(status)
    logging.shutdown()
    os._exit(status)
