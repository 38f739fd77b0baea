"""A Faust transport that hands over chunks: one Faust message for many records of one partition.

Stock Faust spends four asyncio tasks on every event; here they are spent on every chunk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

# Bytes of one chunk at most, whatever the number of records: memory stays bounded with large events.
CHUNK_BYTES = 4 * 1_048_576
# Seconds until the reading is begun again after a rebalance has overtaken it.
_OVERTAKEN = 0.05
# Seconds that a beginning may take to notice that it was overtaken.
_GIVING_UP = 5.0
# Seconds between two signs of life while nothing is fetched.
_STANDSTILL = 1.0


class ChunkApp(Protocol):
    """What the transport asks of the Faust app it serves."""

    chunk: int
    read_committed: bool
    leaves: bool
    consumer_generation_id: int

    async def before_revocation(self) -> None:
        """Called before partitions are taken away, while the consumer can still commit."""

    def after_assignment(self) -> None:
        """Called when a rebalance is through, whatever it gave."""

    async def begin_reading(self, consumer: "Consumer", assigned: Sequence[TP]) -> Mapping[TP, int] | None:
        """Called before the first read of an assignment: the offset at which to begin in each, None to wait."""

    def handed_over(self, tp: TP, until: int, stamp: int | None) -> None:
        """Called with each chunk: its next offset, and the broker's time of its last record, milliseconds."""

    def out_of_range(self, offsets: Mapping[TP, int]) -> None:
        """Called when the broker has no such offsets."""


class _Thread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        if cast(ChunkApp, self.app).read_committed:
            # Faust ties this to its own transactions; the consumer reads it when it starts.
            consumer._isolation_level = "read_committed"
        return consumer

    async def on_thread_stop(self) -> None:
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if coordinator is not None and not cast(ChunkApp, self.app).leaves:
            coordinator._maybe_leave_group = _nothing
        await super().on_thread_stop()


async def _nothing() -> None:
    return


class Consumer(driver.Consumer):
    """Yields chunks, and counts on acknowledgement in the order of the chunks."""

    # Counts the rebalances, and remembers for which of them the reading has begun.
    _rebalances = 0
    _begun_in = 0
    _assigned = False
    _beginning: "asyncio.Task[Mapping[TP, int] | None] | None" = None

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _begin(self) -> bool:
        """Go to where the database says; done here, and not in the rebalance, because it may have to wait."""
        if self._begun_in == self._rebalances:
            return True
        if not self._assigned:
            return False
        rebalance, assigned = self._rebalances, sorted(self.assignment())
        self._beginning = asyncio.create_task(cast(ChunkApp, self.app).begin_reading(self, assigned))
        await asyncio.wait([self._beginning])
        offsets = None if self._beginning.cancelled() else self._beginning.result()
        if offsets is None or rebalance != self._rebalances or not self.flow_active:
            return False
        try:
            if offsets:
                await self.seek_wait(offsets)
        except IllegalStateError:
            # Taken away meanwhile; the next assignment begins anew.
            return False
        self._read_offset.update(offsets)
        self._begun_in = rebalance
        return True

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        try:
            return await super()._getmany(active_partitions, timeout)
        except NoOffsetForPartitionError:
            # The group never committed here; `_begin` says where to read.
            return {}
        except OffsetOutOfRangeError as error:
            self.stop_flow()
            cast(ChunkApp, self.app).out_of_range(
                {TP(tp.topic, tp.partition): offset for tp, offset in error.args[0].items()}
            )
            return {}

    def last_fetch(self, tp: TP) -> int | None:
        """When the broker last answered for this partition, milliseconds; None when it is not ours."""
        consumer: AIOKafkaConsumer | None = self._thread._consumer
        if consumer is None or consumer._subscription.subscription is None:
            return None
        assignment = consumer._subscription.subscription.assignment
        if assignment is None or tp not in assignment.tps or tp in consumer._fetcher._records:
            # Not ours, or what the broker gave has not been looked at.
            return None
        stamp: int | None = assignment.state_value(tp).timestamp
        return stamp

    async def _wait_next_records(self, timeout: float) -> Any:
        while not self.flow_active and not self.should_stop:
            # aiokafka takes a worker that does not fetch for dead, and would not join again before it fetches,
            # while the flow begins again only when it has joined.
            consumer: AIOKafkaConsumer | None = self._thread._consumer
            if consumer is not None:
                with consumer._subscription.fetch_context():
                    pass
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.can_resume_flow.wait(), _STANDSTILL)
        return await super()._wait_next_records(timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        if self.flow_active and not await self._begin():
            await asyncio.sleep(_OVERTAKEN)
            return
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if self.flow_active and self._begun_in != self._rebalances:
            # They were asked for before a rebalance, and come from where the group has committed.
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        generation = self.app.consumer_generation_id
        for tp, chunk in _chunks(records, cast(ChunkApp, self.app).chunk):
            if not self.flow_active or generation != self.app.consumer_generation_id:
                return
            if not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            # After an assignment this is the next offset to read, not the last one that was read.
            following = self._read_offset[tp]
            if following is not None:
                chunk = [record for record in chunk if record.offset >= following]
            if chunk:
                last = chunk[-1].offset
                # Otherwise the driver takes the chunk for a gap in the offsets and books every one of them.
                self._read_offset[tp] = last - 1
                cast(ChunkApp, self.app).handed_over(tp, last + 1, chunk[-1].timestamp)
                yield tp, self._chunk_message(tp, chunk, last)

    def _chunk_message(self, tp: TP, chunk: Sequence[Any], last: int) -> ConsumerMessage:
        stamp = chunk[-1].timestamp
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last,
            (stamp or 0) / 1000.0,
            chunk[-1].timestamp_type,
            None,
            None,
            cast(Any, chunk),
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_offset(self, tp: TP) -> int | None:
        # Chunks are acknowledged in order, so the highest acknowledged offset is where to go on.
        acked = self._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return last + 1

    async def perform_seek(self) -> None:
        try:
            await super().perform_seek()
        except (IllegalStateError, AssertionError):
            # A second rebalance has overtaken the first, and its own assignment seeks again; or it left this
            # worker without partitions, which aiokafka takes for a mistake.
            self.log.info("seek given up: the partitions were taken away meanwhile")

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.stop_flow()
        self._rebalances += 1
        self._assigned = False
        if self._beginning is not None and not self._beginning.done():
            self._beginning.cancel()
            await asyncio.wait([self._beginning], timeout=_GIVING_UP)
        await cast(ChunkApp, self.app).before_revocation()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._rebalances += 1
        self._assigned = True
        try:
            await super().on_partitions_assigned(assigned, generation_id)
        finally:
            cast(ChunkApp, self.app).after_assignment()


class Transport(driver.Transport):
    """Registered as `salience://` among Faust's transports."""

    Consumer = Consumer
    driver_version = "salience"


def _chunks(records: Mapping[TP, Sequence[Any]], most: int) -> Iterator[tuple[TP, Sequence[Any]]]:
    """Cut each partition's records into chunks, and take the partitions in turn."""
    waiting = {tp: _cut(of_partition, most) for tp, of_partition in records.items()}
    while waiting:
        for tp in list(waiting):
            chunk = next(waiting[tp], None)
            if chunk is None:
                del waiting[tp]
            else:
                yield tp, chunk


def _cut(records: Iterable[Any], most: int) -> Iterator[Sequence[Any]]:
    chunk: list[Any] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.value or b"")
        if len(chunk) >= most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
