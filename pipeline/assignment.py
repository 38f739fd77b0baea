"""The partitions that a worker reads: where it begins, whether it may, and when one of them has fallen idle."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from pipeline.admin import TopicInfo, look
from pipeline.caution import Caution
from pipeline.settings import Settings
from pipeline.store import owners
from pipeline.store.attempts import suspects
from pipeline.store.database import Database
from pipeline.store.owners import Former, Standing
from pipeline.times import Now
from pipeline.watermark import IDLE, SECOND
from schemas.errors import BrokerError, ContradictionError
from schemas.events import Place

# Microseconds since its last chunk came through for which a partition with chunks in work counts as flowing.
_FLOWING = 5 * SECOND

# (topic, partition)
Partition = tuple[str, int]
# The broker's first (or last) offset of each partition.
Offsets = Callable[[Sequence[Partition]], Awaitable[dict[Partition, int]]]


class Reading(Struct):
    """A partition in work: offsets are the next ones, `since` is when something last spoke against idleness."""

    place: Place
    position: int
    done: int
    since: int
    # When a chunk of it last came through.
    moved: int = 0
    declared: bool = False


class Assignment:
    """What this worker reads in its present generation; nothing of it outlives the generation."""

    def __init__(
        self,
        settings: Settings,
        streams: dict[str, str],
        database: Database,
        caution: Caution,
        worker: str,
        now: Now,
    ) -> None:
        self._settings = settings
        # topic -> stream
        self._streams = streams
        self._database = database
        self._caution = caution
        self._worker = worker
        self._now = now
        self.reading: dict[Partition, Reading] = {}
        # A sign of life may come neither after the farewell nor before the taking over, which tells of a death.
        self._writing = asyncio.Lock()

    async def begin(self, partitions: Sequence[Partition], first: Offsets, last: Offsets) -> dict[Partition, int]:
        """Take over these partitions; returns the offset at which to begin in each.

        Raises:
            ContradictionError: the topics are not those that the database knows, or have lost what it lacks.
            OutageError: broker or database are away.
        """
        self.reading = {}
        self._caution.forget()
        cluster, topics = await asyncio.to_thread(look, self._settings.broker)
        places = {each: self._place(cluster, topics, each) for each in partitions}
        self._refuse(topics, await owners.former(self._database, list(places.values())))
        earliest = await first(partitions)
        if self._settings.broker.offset_reset == "latest":
            await self._begin_at_the_end(cluster, topics, list(places.values()), last)
        known = await owners.read(self._database, list(places.values()))
        for partition, place in places.items():
            _refuse_gap(known[place], earliest[partition])
        await owners.announce(self._database, self._all(cluster, topics), self._now())
        begin = {place: earliest[partition] for partition, place in places.items()}
        async with self._writing:
            # From here on they are to be given up, whatever comes between.
            self.reading = {each: Reading(place, 0, 0, self._now()) for each, place in places.items()}
            standings = await owners.take(self._database, list(begin), self._worker, self._now(), begin)
        work = self._settings.worker
        self._caution.watch(await suspects(self._database, standings, work.chunk * work.chunks_in_work))
        now = self._now()
        offsets = {}
        for standing in standings:
            partition = (standing.place.topic, standing.place.partition)
            offsets[partition] = at = max(standing.published, earliest[partition])
            self.reading[partition] = Reading(standing.place, at, at, now)
        return offsets

    async def _begin_at_the_end(
        self, cluster: str, topics: dict[str, TopicInfo], places: Sequence[Place], last: Offsets
    ) -> None:
        """Topics that this database has never read begin at their end, in all partitions at once.

        A partition that is added later belongs to its topic from its first record on.
        """
        for topic, place in {each.topic: each for each in places}.items():
            if not await owners.knows_topic(self._database, place):
                ends = await last([(topic, number) for number in range(topics[topic].partitions)])
                begin = {self._place(cluster, topics, each): offset for each, offset in ends.items()}
                await owners.begin_at(self._database, begin, self._now())

    def _place(self, cluster: str, topics: dict[str, TopicInfo], partition: Partition) -> Place:
        topic, number = partition
        if topic not in topics:
            # A broker that has just started may not know yet.
            raise BrokerError(
                f"the broker {self._settings.broker.servers} has no topic {topic} any more; "
                "run `salience topics create`"
            )
        return Place(self._streams[topic], cluster, topic, topics[topic].incarnation, number)

    def _all(self, cluster: str, topics: dict[str, TopicInfo]) -> list[Place]:
        there = [topic for topic in self._streams if topic in topics]
        return [
            self._place(cluster, topics, (topic, number))
            for topic in there
            for number in range(topics[topic].partitions)
        ]

    def _refuse(self, topics: dict[str, TopicInfo], found: Sequence[Former]) -> None:
        for each in found:
            raise ContradictionError(
                f"the topic {each.topic} is not the one that was read before: it was made again, or this is "
                f"another cluster (then incarnation {each.incarnation} with {each.stored:,} records stored, now "
                f"{topics[each.topic].incarnation}); if that is meant, run `salience topics accept` and start "
                "again"
            )

    async def check(self) -> None:
        """Whether the topics are still those that are being read.

        Raises:
            ContradictionError: one was deleted and made again.
            BrokerError: the broker is away.
        """
        _, topics = await asyncio.to_thread(look, self._settings.broker)
        for reading in list(self.reading.values()):
            place = reading.place
            topic = topics.get(place.topic)
            if topic is not None and topic.incarnation != place.incarnation:
                former = Former(place.stream, place.topic, place.cluster, place.incarnation, reading.done)
                self._refuse(topics, [former])

    def out_of_range(self, partition: Partition, offset: int) -> ContradictionError:
        """What it means that the broker has no such offset."""
        return ContradictionError(
            f"the topic {partition[0]} has no record {offset:,} in partition {partition[1]}: it was made again, "
            "or its records were deleted before they were read; run `salience topics accept`, which says what is "
            "lost, and start again"
        )

    def handed_over(self, partition: Partition, until: int, stamp: int | None) -> None:
        """Records up to offset `until` are in work; `stamp` is the broker's time of the last, microseconds."""
        reading = self.reading.get(partition)
        if reading is None:
            return
        reading.position = until
        now = self._now()
        if stamp is None or stamp < now - IDLE:
            # It is behind: what moves time may still be waiting.
            reading.since, reading.declared = now, False

    def applied(self, partition: Partition, until: int, timed: bool) -> None:
        """A chunk up to offset `until` is through; `timed` says whether it held an event that moves time."""
        reading = self.reading.get(partition)
        if reading is None:
            return
        reading.done, reading.moved = until, self._now()
        if timed:
            reading.since, reading.declared = self._now(), False

    def idle(self, fetched: Callable[[Partition], int | None]) -> dict[Place, int]:
        """Partitions that have fallen idle, with the offset from which on; `fetched` tells the last answer."""
        now = self._now()
        found = {}
        for partition, reading in self.reading.items():
            # What is in work may hold an event that moves time, unless chunks come through one after the other.
            stuck = reading.done != reading.position and now - reading.moved > _FLOWING
            if reading.declared or stuck or now - reading.since < IDLE:
                continue
            answered = fetched(partition)
            # A broker that does not answer says nothing about what is there.
            if answered is not None and answered >= reading.since + IDLE:
                found[reading.place] = reading.done
        return found

    async def beat(self, fetched: Callable[[Partition], int | None]) -> None:
        """Write down that this worker lives, and which of its partitions have fallen idle."""
        async with self._writing:
            places = [reading.place for reading in self.reading.values()]
            await owners.beat(self._database, self._worker, places, self._now())
            quiet = self.idle(fetched)
            await owners.declare_idle(self._database, self._worker, quiet, self._now())
        for reading in self.reading.values():
            reading.declared = reading.declared or reading.place in quiet

    async def end(self, in_order: bool) -> None:
        """Give all partitions up; `in_order` when nothing of theirs is in work."""
        places = [reading.place for reading in self.reading.values()]
        self.reading = {}
        self._caution.forget()
        if in_order:
            async with self._writing:
                await owners.leave(self._database, self._worker, places, self._now())


def _refuse_gap(standing: Standing, earliest: int) -> None:
    if standing.known and earliest > standing.stored:
        place = standing.place
        raise ContradictionError(
            f"the topic {place.topic} begins at offset {earliest:,} in partition {place.partition}, but only what "
            f"lies before {standing.stored:,} is stored: {earliest - standing.stored:,} records were deleted "
            "before they were read; run `salience topics accept` to go on without them"
        )
