"""The transaction of a chunk: new events, scores, progress, reactions, outbox, dead letters, all or nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk, fates, known, outbox, rows, takeover, ticks
from pipeline.store.clock import Clock, lock
from pipeline.store.database import Database, uninterrupted
from pipeline.store.forget import blank_forgotten
from pipeline.store.forget_letters import BLANK_LETTER, blank_dead
from pipeline.store.migrate import Instance
from pipeline.store.rulebook import Rulebook
from pipeline.store.subjects import next_sequences
from pipeline.store.transaction import Transaction
from pipeline.work import Applied, NewEvent, Outgoing, ScoredEvent, Work
from schemas.events import Dead, Place, broker_time, encode_json
from schemas.tables import dead_letters, item_scores, progress, scores, seen

React = Callable[[Transaction, Sequence[NewEvent]], Awaitable[None]]

# Built once: SQLAlchemy takes longer to build a statement than to run it from its cache.
_OF_PARTITION = update(progress).where(
    *[progress.c[name] == bindparam(f"own_{name}") for name in ("cluster", "topic", "incarnation", "partition")]
)
_ADVANCE = _OF_PARTITION.values(
    stored=bindparam("to_stored"),
    sequence=bindparam("to_sequence"),
    published=bindparam("to_published"),
    new=progress.c.new + bindparam("more_new"),
    repeated=progress.c.repeated + bindparam("more_repeated"),
    dead=progress.c.dead + bindparam("more_dead"),
    newest=bindparam("to_newest"),
    timed=bindparam("to_timed"),
    updated_at=bindparam("moment"),
)
_PUBLISHED = _OF_PARTITION.where(progress.c.published < bindparam("confirmed")).values(
    published=bindparam("confirmed")
)


class Confirmed(Struct):
    """What the broker has confirmed since the last transaction of a partition."""

    published: int = 0
    outbox: list[int] = []


class ChunkStore:
    """Writes chunks. Safe to call again with the same chunk: only what is new counts."""

    def __init__(self, database: Database, instance: Instance, rulebook: Rulebook) -> None:
        self.database = database
        self.instance = instance
        self._rulebook = rulebook
        self._confirmed: dict[Place, Confirmed] = {}

    def confirm(self, place: Place, applied: Applied) -> None:
        """The broker has the messages of a chunk; the partition's next transaction writes that down."""
        confirmed = self._confirmed.setdefault(place, Confirmed())
        confirmed.published = max(confirmed.published, applied.until)
        confirmed.outbox += [message.outbox for message in applied.outbox if message.outbox is not None]

    @uninterrupted
    async def flush(self, now: int) -> None:
        """Write down what was confirmed since the last transactions."""
        waiting, self._confirmed = self._confirmed, {}
        try:
            if waiting:
                async with self.database.begin() as connection:
                    for place, confirmed in sorted(waiting.items(), key=_key):
                        await _write_confirmed(connection, place, confirmed, now)
        except BaseException:
            for place, confirmed in waiting.items():
                self._take_back(place, confirmed)
            raise

    async def close(self, stream: str, topic: str, now: int) -> ticks.Closed:
        """Close the live ticks of a stream that its watermark has passed."""
        return await ticks.close(self.database, self.instance.tick, stream, topic, now)

    def drop_confirmed(self) -> None:
        """Forget what is not written down: the partitions have gone, and their next owner publishes it again."""
        self._confirmed = {}

    def _take_back(self, place: Place, confirmed: Confirmed) -> None:
        later = self._confirmed.setdefault(place, Confirmed())
        later.published = max(later.published, confirmed.published)
        later.outbox += confirmed.outbox

    @uninterrupted
    async def apply(self, work: Work, react: React) -> Applied:
        """One transaction for one chunk.

        Raises:
            DataError: the database or a reaction refuses some event; nothing was written.
            DatabaseError: the database is away; nothing was written.
        """
        confirmed = self._confirmed.get(work.place, Confirmed())
        published, sent = confirmed.published, list(confirmed.outbox)
        async with self.database.begin() as connection:
            clock = await lock(connection, work.place, work.now)
            rules = await self._rulebook.of(connection, work, clock)
            scored, dead = await fates.hold(connection, work, clock.stored)
            await blank_forgotten(connection, self.instance.hash_key, scored, clock.forgotten_before)
            events, repeated, clashes = known.unique(scored)
            events, pruned = await self._without_pruned(connection, events, clock)
            columns = self._columns(work, events, clock)
            if work.place.stream == "behavior":
                columns["apply_sequence"] = await next_sequences(
                    connection, self.instance.hash_key, columns["subject"]
                )
            constants = rows.constants(work, rules.version)
            ids, before = await _insert_events(connection, work, events, constants, columns, clock.stored)
            new = [index for index, row in enumerate(ids) if row is not None]
            await self._insert_scores(connection, work, [(ids[index], events[index]) for index in new])
            transaction = Transaction(connection, work.place, work.now, work.notify, work.lease_until, rules)
            await react(transaction, _reacting(work, new, ids, events, columns))
            dead = await _insert_dead(
                connection, work, dead + clashes + before.clashes, self.instance.hash_key, clock.forgotten_before
            )
            applied = Applied(
                new=len(new),
                repeated=repeated + pruned + before.repeated,
                dead=dead,
                outgoing=sorted([*_outgoing(work, events, new), *before.outgoing], key=_offset),
                outbox=transaction.messages + await known.unsent(connection, before.rows),
                alerts=transaction.alerts,
                until=work.records[-1].offset + 1,
                timed=not all(columns["future"]),
            )
            fresh = sum(1 for index in new if events[index].event.record.offset >= clock.stored)
            await _advance(connection, work, clock, applied, fresh, published, _timed(events, columns, clock))
            await outbox.confirm(connection, sent, work.now)
        confirmed.outbox = [row for row in confirmed.outbox if row not in sent]
        return applied

    def _columns(self, work: Work, events: Sequence[ScoredEvent], clock: Clock) -> dict[str, list[Any]]:
        futures = [rows.is_future(each.event, work.now) for each in events]
        columns = rows.columns(work.place.stream, events, futures)
        columns["sequence"] = list(range(clock.sequence, clock.sequence + len(events)))
        if any(each.forgotten is not None for each in events):
            columns["forgotten_at"] = [each.forgotten for each in events]
        floor = clock.seen_before
        columns["too_old"] = [floor is not None and each.event.time < floor for each in events]
        columns["visible_tick"] = [
            max(rows.own_tick(each.event, future, work.now, self.instance.tick), clock.closed_tick + 1)
            for each, future in zip(events, futures, strict=True)
        ]
        return columns

    async def _without_pruned(
        self, connection: AsyncConnection, events: list[ScoredEvent], clock: Clock
    ) -> tuple[list[ScoredEvent], int]:
        floor = clock.pruned_before
        old = {} if floor is None else {
            rows.key_hash(self.instance.hash_key, each.event.stream, each.event.source, each.event.id): each
            for each in events
            if each.event.time < floor
        }  # fmt: skip
        if not old:
            return events, 0
        found = await connection.execute(select(seen.c.key_hash).where(seen.c.key_hash.in_(list(old))))
        gone = {id(old[key]) for key in found.scalars()}
        return [each for each in events if id(each) not in gone], len(gone)

    async def _insert_scores(
        self, connection: AsyncConnection, work: Work, new: Sequence[tuple[int | None, ScoredEvent]]
    ) -> None:
        scored = [(row, each, each.score) for row, each in new if each.score is not None]
        shared: dict[str, list[Any]] = {
            "bundle": [work.bundle] * len(scored),
            "heads": [each.heads.decode() for _, each, _ in scored],
            "embedding": [score.embedding or None for _, _, score in scored],
            "scale": [score.scale if score.embedding else None for _, _, score in scored],
            "tokens": [score.tokens for _, _, score in scored],
        }
        if work.place.stream != "behavior":
            await bulk.insert_all(connection, scores, {"event": [row for row, _, _ in scored], **shared})
            return
        items: dict[str, list[Any]] = {
            "item": [each.event.data.item for _, each, _ in scored],  # type: ignore[union-attr]
            "text_hash": [each.item_hash for _, each, _ in scored],
            "truncated": [score.truncated for _, _, score in scored],
            **shared,
        }
        # Many events name few items, and two workers must take their locks in one order.
        first = {
            key: index
            for index, key in reversed(list(enumerate(zip(items["item"], items["text_hash"], strict=True))))
        }
        await bulk.insert_all(connection, item_scores, rows.pick(items, [first[key] for key in sorted(first)]))


async def _insert_events(
    connection: AsyncConnection,
    work: Work,
    events: Sequence[ScoredEvent],
    constants: dict[str, Any],
    columns: dict[str, list[Any]],
    stored: int,
) -> tuple[list[int | None], known.Known]:
    """Row ids of the events that are new (None for the others), and what was known of the others."""
    ids = await bulk.insert_events(connection, constants, columns) if events else []
    old = {id(events[at]): at for at, row in enumerate(ids) if row is None}
    before = await known.compare(connection, work.place, [events[at] for at in old.values()], stored)
    at = [old[id(held.event)] for held in before.held]
    taken = await takeover.take_over(connection, before.held, constants, rows.pick(columns, at))
    for index, row in zip(at, taken, strict=True):
        ids[index] = row
        before.repeated += row is None
    return ids, before


def _reacting(
    work: Work,
    new: Sequence[int],
    ids: Sequence[int | None],
    events: Sequence[ScoredEvent],
    columns: dict[str, list[Any]],
) -> list[NewEvent]:
    return [
        NewEvent(
            row,
            events[index].event,
            events[index].score,
            columns["visible_tick"][index],
            work.bundle,
            events[index].signature,
        )
        for index in new
        if (row := ids[index]) is not None and not columns["too_old"][index] and events[index].forgotten is None
    ]


def _outgoing(work: Work, events: Sequence[ScoredEvent], new: Sequence[int]) -> list[Outgoing]:
    return [_scored(work, events[index]) for index in new if events[index].forgotten is None]


def _scored(work: Work, scored: ScoredEvent) -> Outgoing:
    event = scored.event
    truncated = scored.score is not None and scored.score.truncated
    share = scored.score.truncated_share if scored.score is not None and truncated else None
    return Outgoing(
        event.source, event.id, event.time, event.key, work.bundle, truncated, scored.heads, event.record.offset,
        share or None,
    )  # fmt: skip


def _offset(outgoing: Outgoing) -> int:
    return outgoing.offset


async def _insert_dead(
    connection: AsyncConnection, work: Work, given: Sequence[Dead], key: bytes, before: int | None
) -> list[Dead]:
    """Store dead letters; returns them as they are stored, those of forgotten people blank."""
    if not given:
        return []
    place = work.place
    dead = await blank_dead(connection, key, place.stream, given, before)
    columns: dict[str, list[Any]] = {
        name: [getattr(place, name)] * len(dead)
        for name in ("stream", "origin", "run", "cluster", "topic", "incarnation", "partition")
    }
    records = [each.record for each in dead]
    columns |= {
        # Of the bytes as they came, so that a letter met again is the same one.
        "identity": [rows.dead_letter_identity(place, each.record.offset, each.record.value) for each in given],
        "offset": [each.offset for each in records],
        "stage": [each.stage for each in dead],
        "reason": [each.reason for each in dead],
        "exception": [each.exception for each in dead],
        "message": [_storable(each.message) for each in dead],
        "attempts": [each.attempts for each in dead],
        "key": [each.key for each in records],
        "value": [each.value for each in records],
        "headers": [
            encode_json([[_storable(name), value] for name, value in each.headers or ()]).decode()
            for each in records
        ],
        "broker_time": [broker_time(each) for each in records],
        "ingest_time": [work.now] * len(dead),
        # What has no bytes any more is not tried again.
        "replayed_at": [work.now if each.message == BLANK_LETTER else None for each in dead],
    }
    await bulk.insert_all(connection, dead_letters, columns)
    return dead


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _timed(events: Sequence[ScoredEvent], columns: dict[str, list[Any]], clock: Clock) -> tuple[int | None, int]:
    """The partition's newest event time that moves the watermark, and the offset after the last such event."""
    moving = [each.event for each, future in zip(events, columns["future"], strict=True) if not future]
    if not moving:
        return clock.newest, clock.timed
    newest = max(event.time for event in moving)
    until = moving[-1].record.offset + 1
    return (newest if clock.newest is None else max(newest, clock.newest)), max(until, clock.timed)


async def _advance(
    connection: AsyncConnection,
    work: Work,
    clock: Clock,
    applied: Applied,
    new: int,
    published: int,
    timed: tuple[int | None, int],
) -> None:
    # Every offset is counted once, by what became of it first, however often it is delivered.
    records = sum(1 for record in work.records if record.offset >= clock.stored)
    dead = sum(1 for each in applied.dead if each.record.offset >= clock.stored)
    values = {
        "to_stored": max(clock.stored, applied.until),
        "to_sequence": clock.sequence + len(work.scored),
        "to_published": max(clock.published, published),
        "to_newest": timed[0],
        "to_timed": timed[1],
        "more_new": new,
        "more_repeated": records - dead - new,
        "more_dead": dead,
        "moment": work.now,
    }
    await connection.execute(_ADVANCE, {**_own(work.place), **values})


async def _write_confirmed(connection: AsyncConnection, place: Place, confirmed: Confirmed, now: int) -> None:
    if confirmed.published:
        await connection.execute(_PUBLISHED, {**_own(place), "confirmed": confirmed.published})
    await outbox.confirm(connection, confirmed.outbox, now)


def _key(item: tuple[Place, Confirmed]) -> tuple[str, str, str, int]:
    # All who lock several partitions lock them in this order.
    place = item[0]
    return place.cluster, place.topic, place.incarnation, place.partition


def _own(place: Place) -> dict[str, Any]:
    return {
        "own_cluster": place.cluster,
        "own_topic": place.topic,
        "own_incarnation": place.incarnation,
        "own_partition": place.partition,
    }
