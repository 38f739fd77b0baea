"""Dead letters once more through the flow, or back to the topic they came from."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import Struct

from pipeline.compose import compose
from pipeline.deliver import KafkaOutlet, NoOutlet, Outlet
from pipeline.producer import open_producer
from pipeline.send import Sender
from pipeline.settings import Settings
from pipeline.store import letters
from pipeline.store.database import Database
from pipeline.times import now
from pipeline.topics import Topics
from pipeline.turn import Turn
from schemas.errors import UsageError
from schemas.events import Chunk


class Replayed(Struct):
    """What became of the dead letters; `dead` are dead again and stay where they were."""

    sent: int = 0
    stored: int = 0
    repeated: int = 0
    dead: int = 0


async def through_flow(settings: Settings, rows: Sequence[dict[str, Any]]) -> Replayed:
    """Each on its own, as it came; those that are stored now (or were already) are marked as replayed.

    Raises:
        SalienceError: database or broker are away.
    """
    done = Replayed()
    live = any(row["origin"] == "live" for row in rows)
    async with await compose(settings, announces=False) as pipeline, _outlet(settings, live) as outlet:
        for row in rows:
            place = letters.place_of(row)
            notify = place.origin == "live"
            flow = pipeline.flow(place.stream, outlet if notify else NoOutlet(), notify)
            applied = await flow.process(Chunk(place, [letters.line_of(row)], again=True), Turn())
            done.sent += 1
            done.stored += applied.new
            done.repeated += applied.repeated
            done.dead += len(applied.dead)
            if not applied.dead:
                await letters.mark_replayed(pipeline.database, [row["id"]], now())
        await pipeline.flush()
    return done


async def to_topic(settings: Settings, rows: Sequence[dict[str, Any]]) -> Replayed:
    """Back to their topics, bytes untouched; the workers take it from there. What arrived is marked as replayed.

    Raises:
        SalienceError: one never had a topic, a topic is missing, or the broker did not confirm all.
    """
    from_files = [str(row["id"]) for row in rows if row["origin"] != "live"]
    if from_files:
        raise UsageError(
            f"never had a topic, because a back-fill read them: dead letters {', '.join(from_files)}; "
            "replay them without --to-topic"
        )
    confirmed: list[int] = []
    try:
        with Sender(settings.broker) as sender:
            sender.resend([(row["id"], row["topic"], letters.line_of(row)) for row in rows], confirmed.append)
    finally:
        await _mark(settings, confirmed)
    return Replayed(sent=len(confirmed))


async def _mark(settings: Settings, ids: Sequence[int]) -> None:
    if not ids:
        return
    database = Database(settings.database)
    try:
        await letters.mark_replayed(database, ids, now())
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def _outlet(settings: Settings, live: bool) -> AsyncIterator[Outlet]:
    if not live:
        yield NoOutlet()
        return
    async with open_producer(settings.broker) as producer:
        scored = Topics(settings.broker.prefix).scored
        yield KafkaOutlet(producer, scored, settings.worker.publish_scored)
