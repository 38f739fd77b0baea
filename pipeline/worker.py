"""The Faust worker: reads chunks from Kafka, sends them along their lanes, acknowledges in order."""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, cast

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.types import TP
from yarl import URL

from pipeline.admin import describe
from pipeline.assignment import Assignment, Offsets, Partition, Reading
from pipeline.compose import Pipeline, compose
from pipeline.deliver import KafkaOutlet
from pipeline.embedded import is_embedded
from pipeline.flow import Flow
from pipeline.lane import Lane
from pipeline.pages import Pages
from pipeline.producer import open_producer
from pipeline.retry import through_outage
from pipeline.security import tls_context, unreachable
from pipeline.settings import BrokerSettings, Settings
from pipeline.timer import Timer
from pipeline.times import now
from pipeline.topics import Topics
from pipeline.transport import Consumer
from pipeline.work import Applied
from schemas.errors import BrokerError, OutageError, SalienceError
from schemas.events import Chunk

log = structlog.get_logger("salience.worker")

# Seconds that chunks in work may take when their partitions are taken away.
_REVOCATION = 5.0
# Seconds that writing down the end of a generation may take.
_GIVING_UP = 2.0
# Seconds that the broker may take to answer, beyond a session: while a group forms it waits for a member that has
# died, and then for what the others have in work. An answer that never comes is asked for again after that.
_ANSWER = 20.0
# Milliseconds after which partitions that were added to a topic are noticed.
_METADATA_AGE = 30_000
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
    # Whether the group is told when the worker ends.
    leaves: bool
    lanes: list[Lane]
    flows: dict[str, Flow]
    assignment: Assignment
    pipeline: Pipeline
    patience: float
    refused: "asyncio.Future[BaseException]"
    broken: bool = False

    def _create_directories(self) -> None:
        return

    async def before_revocation(self) -> None:
        """Partitions are taken away: what is in work may finish, for a few seconds; the rest is dropped."""
        for lane in self.lanes:
            lane.hold()
        await asyncio.gather(*(lane.drain(_REVOCATION) for lane in self.lanes))
        for lane in self.lanes:
            await lane.clear()
        await self.give_up(_GIVING_UP, in_order=True)

    async def give_up(self, seconds: float, in_order: bool) -> None:
        """Write down what was confirmed and that the partitions are given up; keep nothing of them."""
        try:
            with contextlib.suppress(OutageError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.pipeline.flush()
                    await self.assignment.end(in_order)
        finally:
            await self.assignment.end(in_order=False)
            self.pipeline.drop_confirmed()

    def after_assignment(self) -> None:
        """Partitions are ours again."""
        for lane in self.lanes:
            lane.go_on()

    async def begin_reading(self, consumer: Consumer, assigned: Sequence[TP]) -> Mapping[TP, int] | None:
        """Where to begin in each partition; None when a contradiction or a long outage ends the worker."""
        partitions = [(tp.topic, tp.partition) for tp in assigned]

        def ask(question: Callable[..., Any]) -> Offsets:
            async def answer(which: Sequence[Partition]) -> dict[Partition, int]:
                try:
                    found = await question(*(TP(topic, number) for topic, number in which))
                except (KafkaError, OSError) as error:
                    raise BrokerError(unreachable(self.pipeline.settings.broker, error)) from error
                return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

            return answer

        first, last = ask(consumer.earliest_offsets), ask(consumer.highwaters)
        try:
            offsets = await through_outage(
                lambda: self.assignment.begin(partitions, first, last),
                self.patience,
                self.pipeline.observer.outage,
            )
        except SalienceError as error:
            self.refuse(error)
            consumer.stop_flow()
            return None
        log.info("reading", partitions=len(offsets))
        return {TP(topic, number): offset for (topic, number), offset in offsets.items()}

    def handed_over(self, tp: TP, until: int, stamp: int | None) -> None:
        self.assignment.handed_over((tp.topic, tp.partition), until, None if stamp is None else stamp * 1000)

    def out_of_range(self, offsets: Mapping[TP, int]) -> None:
        tp, offset = next(iter(offsets.items()))
        self.refuse(self.assignment.out_of_range((tp.topic, tp.partition), offset))

    def last_fetch(self, partition: Partition) -> int | None:
        """When the broker last answered for a partition, microseconds."""
        stamp = cast(Consumer, self.consumer).last_fetch(TP(*partition))
        return None if stamp is None else stamp * 1000

    def refuse(self, error: BaseException) -> None:
        """The worker must end: going on would lose something."""
        if not self.refused.done():
            self.refused.set_result(error)


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
        cluster, _ = await asyncio.to_thread(describe, self._settings.broker)
        async with await compose(self._settings) as pipeline, open_producer(self._settings.broker) as producer:
            pages = Pages(pipeline.observer, self._settings.worker.stalled_after)
            if self._port:
                await pages.start(self._settings.worker.host, self._port)
            outlet = KafkaOutlet(producer, self._topics.scored, self._settings.worker.publish_scored)
            app = self._app(pipeline, outlet, pages)
            # The embedded broker goes on waiting for the leader of a group that left it while it formed.
            app.leaves = not is_embedded(cluster)
            timer = Timer(pipeline, app.flows, outlet, app.assignment, app.last_fetch, app.refuse)
            timed = asyncio.create_task(timer.run())
            _tune_interpreter()
            _quiet_threads()
            starting = asyncio.create_task(app.start())
            try:
                status = await self._watch(app, starting)
            finally:
                timed.cancel()
                pages.stopping = True
            await self._shut_down(app, status)
            starting.cancel()
            # Notifications on their way were given their time meanwhile; cut off, they would go out twice.
            await asyncio.wait([timed], timeout=self._settings.worker.shutdown_timeout * 0.6)
            await pages.stop()
        return status

    def _app(self, pipeline: Pipeline, outlet: KafkaOutlet, pages: Pages) -> App:
        settings = self._settings
        app = App(settings.broker.group, **_faust_options(settings.broker))
        app.chunk = settings.worker.chunk
        app.read_committed = settings.broker.read_committed
        app.patience = settings.database.outage_deadline
        app.pipeline = pipeline
        app.refused = asyncio.get_running_loop().create_future()
        streams = {topic: stream for stream, topic in self._topics.inputs.items()}
        worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        app.assignment = Assignment(settings, streams, pipeline.database, pipeline.caution, worker, now)
        app.lanes, app.flows = [], {}
        for topic, stream in streams.items():
            lane = pipeline.lane(stream, outlet)
            app.lanes.append(lane)
            app.flows[stream] = lane.flow
            self._agent(app, stream, topic, lane)

        async def assigned(*_: Any, **__: Any) -> None:
            pages.assigned = True

        async def revoked(*_: Any, **__: Any) -> None:
            pages.assigned = False

        app.on_partitions_assigned.connect(assigned, weak=False)
        app.on_partitions_revoked.connect(revoked, weak=False)
        return app

    def _agent(self, app: App, stream: str, topic: str, lane: Lane) -> None:
        async def body(chunks: Any) -> None:
            async for event in chunks.noack().events():
                partition = (topic, event.message.partition)
                reading = app.assignment.reading.get(partition)
                if reading is None:
                    continue

                def still(reading: Reading = reading, partition: Partition = partition) -> bool:
                    return app.assignment.reading.get(partition) is reading

                chunk = Chunk(reading.place, event.message.value)
                await lane.submit(chunk, partial(_acknowledge, app.assignment, partition, event), still)

        channel = app.topic(topic, key_serializer="raw", value_serializer="raw")
        app.agent(channel, name=f"salience.{stream}")(body)

    async def _watch(self, app: App, starting: "asyncio.Task[None]") -> int:
        """Wait for the end, which may come before the start does; returns the exit status."""
        stop = asyncio.create_task(self._stop.wait())
        crash = asyncio.create_task(app._crashed.wait())
        failures: list[asyncio.Future[BaseException]] = [app.refused, *(lane.failed for lane in app.lanes)]
        ends: set[asyncio.Future[Any]] = {stop, crash, *failures}
        # Joining a group can take as long as a member that has gone is waited for.
        await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            log.info("started", group=self._settings.broker.group, port=self._port)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        crash.cancel()
        for failure in failures:
            if failure.done():
                _tell(failure.result())
                # An error that nobody foresaw may come of an event, as a death may.
                app.broken = not isinstance(failure.result(), SalienceError)
                return _status(failure.result())
        if not self._stop.is_set():
            log.error("stopping", reason="faust", message=f"Faust stopped by itself: {app.crash_reason!r}")
            return 1
        return 0

    async def _shut_down(self, app: App, status: int) -> None:
        """Finish what is in work, write down what was confirmed, leave the group; within the deadline.

        The database comes first: it says where to go on, and a broker that is away would use up all the time.
        """
        seconds = self._settings.worker.shutdown_timeout
        try:
            async with asyncio.timeout(seconds):
                app.consumer.stop_flow()
                for lane in app.lanes:
                    lane.hold()
                if status == 0:
                    await asyncio.gather(*(lane.drain(seconds * 0.5) for lane in app.lanes))
                for lane in app.lanes:
                    await lane.clear()
                await app.give_up(seconds * 0.2, in_order=not app.broken)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(app.consumer.commit(), seconds * 0.1)
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


def _quiet_threads() -> None:
    """What ends a thread of a client library is one line of the log, no traceback."""

    def tell(args: threading.ExceptHookArgs) -> None:
        name = "" if args.thread is None else args.thread.name
        log.warning(
            "thread ended", reason="client", thread=name, message=f"{args.exc_type.__name__}: {args.exc_value}"
        )

    threading.excepthook = tell


def _tune_interpreter() -> None:
    """What the start has made stays for good, and chunks die young: the collector may look seldom, elsewhere."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
    sys.setswitchinterval(_SWITCH)


def _acknowledge(assignment: Assignment, partition: Partition, event: Any, applied: Applied) -> None:
    event.ack()
    assignment.applied(partition, applied.until, applied.timed)


def _status(error: BaseException) -> int:
    """2 tells the supervisor that starting again would meet the same."""
    return 2 if isinstance(error, SalienceError) and error.fatal else 1


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
        "broker_request_timeout": broker.session_timeout + _ANSWER,
        "broker_max_poll_interval": broker.max_poll_interval,
        "broker_commit_interval": 1.0,
        # The database says where to read; a record that is gone must be told, not skipped.
        "consumer_auto_offset_reset": "none",
        "consumer_metadata_max_age_ms": _METADATA_AGE,
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
        status = _status(error)
        if worker.told_to_stop:
            # It was still at its start, with nothing in work.
            status = 0
    except BaseException as error:
        _tell(error)
    # Threads of the client libraries may wait for a broker that is away; nothing of ours is left to do.
    at_end(status)
    logging.shutdown()
    os._exit(status)
