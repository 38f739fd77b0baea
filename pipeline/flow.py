"""The way of a chunk, from bytes to acknowledgement: the order of the whole pipeline stands in `process`.

Time has an entry of its own, `close`.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pipeline.dead_share import DeadShare
from pipeline.decode import Decoder
from pipeline.deliver import Outlet, letters
from pipeline.mask import mask
from pipeline.observe import Observer
from pipeline.react import Reaction
from pipeline.retry import through_outage
from pipeline.score import Scoring
from pipeline.store.chunks import ChunkStore
from pipeline.store.decide import Decisions
from pipeline.store.ticks import Closed
from pipeline.store.transaction import Transaction
from pipeline.times import Now
from pipeline.turn import Turn
from pipeline.work import Applied, Message, NewEvent, Work, dead_letter
from schemas.errors import DatabaseError, DataError
from schemas.events import Chunk, Place

R = TypeVar("R")

# Seconds by which a message's lease outlasts the deadline of its chunk.
_MARGIN = 60.0


class Flow:
    """One stream's way. It knows neither Kafka nor Faust: a worker, a back-fill and a test call the same."""

    def __init__(
        self,
        decoder: Decoder,
        scoring: Scoring,
        store: ChunkStore,
        decisions: Decisions,
        reactions: Sequence[Reaction],
        outlet: Outlet,
        *,
        topic: str,
        deadline: float,
        now: Now,
        observer: Observer,
        dead_share: DeadShare,
        notify: bool = True,
    ) -> None:
        self._decoder = decoder
        self._scoring = scoring
        self._store = store
        self._decisions = decisions
        self._reactions = reactions
        self._outlet = outlet
        self._topic = topic
        self._deadline = deadline
        self._now = now
        self._observer = observer
        self._dead_share = dead_share
        self._notify = notify

    async def process(self, chunk: Chunk, turn: Turn) -> Applied:
        """Take a chunk all the way; when this returns it is stored and delivered, and may be acknowledged.

        Events that cannot be used become dead letters and cost nothing but themselves.

        Raises:
            OutageError: database or broker stayed away beyond the deadline; the chunk must come again.
            BundleError: the bundle that is active now cannot be used here.
            TooManyDeadError: this is no matter of single events; nothing of the chunk is stored.
        """
        now, end = self._now(), time.monotonic() + self._deadline
        with self._observer.stage("decode"):
            events, dead = self._decoder.decode_all(chunk)
            events = [mask(event) for event in events]
        async with turn("score"):
            with self._observer.stage("score"):
                scored, unscorable, bundle = await self._patiently(
                    lambda: self._scoring.score(chunk.place.stream, events, now), end
                )
        dead += unscorable
        work = Work(chunk.place, chunk.records, scored, dead, now, bundle, self._notify, again=chunk.again)
        counted = self._dead_share.enter(work)
        async with turn("store"):
            with self._observer.stage("store"):
                applied = await self._apply(work, end)
        self._dead_share.add(counted, work, applied)
        async with turn("deliver"):
            with self._observer.stage("deliver"):
                await self._patiently(lambda: self._deliver(chunk.place, applied), end)
        self._observer.applied(chunk.place, applied)
        return applied

    async def close(self, stream: str, now: int, seconds: float | None = None) -> Closed:
        """Close the ticks that the stream's watermark has passed, and decide on them.

        In transactions of their own, by any worker on a timer: a tick is closed and decided on once, and nothing
        enters it afterwards. now: microseconds. seconds: after which further decisions are left to the next call.

        Raises:
            DatabaseError: the database is away; the next call closes what is due.
        """
        closed = await self._store.close(stream, self._topic, now)
        with self._observer.stage("decide"):
            await self._decisions.take(stream, now, seconds)
        return closed

    async def _apply(self, work: Work, end: float) -> Applied:
        """The chunk's transaction; a chunk that is refused is halved until the culprit stands alone."""
        try:
            return await self._patiently(lambda: self._store.apply(self._leased(work), self._react), end)
        except DataError as error:
            if len(work.records) == 1:
                if not work.scored:
                    raise DatabaseError(f"the database refuses a dead letter: {error}") from error
                event = work.scored[0].event
                return await self._apply(work.with_only([dead_letter(event.record, error, event)]), end)
        first, second = work.halves()
        return (await self._apply(first, end)).joined(await self._apply(second, end))

    def _leased(self, work: Work) -> Work:
        # While this chunk may still be sending its messages, nobody else shall.
        work.lease_until = self._now() + int((self._deadline + _MARGIN) * 1_000_000)
        return work

    async def _patiently(self, step: Callable[[], Awaitable[R]], end: float) -> R:
        return await through_outage(step, max(0.0, end - time.monotonic()), self._observer.outage)

    async def _react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        for reaction in self._reactions:
            await reaction.react(transaction, new)

    async def _deliver(self, place: Place, applied: Applied) -> None:
        await self._outlet.send(place, applied.outgoing, self._letters(place, applied), applied.outbox)
        self._store.confirm(place, applied)

    @staticmethod
    def _letters(place: Place, applied: Applied) -> list[Message]:
        # What came from a file has no topic for its dead letters; the table has them.
        return letters(place, applied.dead) if place.origin == "live" else []
