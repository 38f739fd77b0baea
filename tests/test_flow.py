"""The way of a chunk: what is bad costs itself only, an outage or another process costs nothing."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import pytest
from helpers import (
    COUNTS,
    EVENT_TIME,
    SHORT,
    Clock,
    Languages,
    behavior,
    chat,
    news,
    only,
    opened,
    outage,
    place,
    rows,
    settings_for,
    take,
    upgraded,
)
from sqlalchemy import delete, insert, text

from models.stub import STUB_BUNDLE, StubScorer
from pipeline import pgprograms
from pipeline.compose import Pipeline, compose
from pipeline.deliver import MemoryOutlet
from pipeline.flow import Flow
from pipeline.localpg import LocalPostgres
from pipeline.store.rows import subject_hash
from pipeline.store.transaction import Transaction
from pipeline.turn import Turn
from pipeline.work import NewEvent
from schemas.errors import DatabaseError, ReactionError
from schemas.events import Chunk, Line
from schemas.scores import Score
from schemas.tables import dead_letters, events, item_scores, progress, scores, subjects


def _offsets(found: Sequence[dict[str, Any]]) -> list[int]:
    return sorted(row["offset"] for row in found)


async def test_a_good_chunk_is_stored_and_its_scores_are_sent(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        applied = await take(pipeline, [news(0), news(1)], outlet)
    assert (applied.new, applied.repeated, applied.dead, applied.until) == (2, 0, [], 2)
    assert [(each.source, each.id, each.time, each.key) for each in outlet.scored] == [
        ("wire", "n0", EVENT_TIME, "wire"),
        ("wire", "n1", EVENT_TIME, "wire"),
    ]
    assert {each.bundle for each in outlet.scored} == {STUB_BUNDLE}


async def test_a_chunk_of_each_stream_goes_through_the_same_flow(database_url: str) -> None:
    chunks = {"news": news(0), "chat": chat(0), "behavior": behavior(0)}
    async with opened(database_url) as pipeline:
        for stream, record in chunks.items():
            assert (await take(pipeline, [record], where=place(stream))).new == 1
        assert [row["stream"] for row in await rows(pipeline.database, events)] == list(chunks)


async def test_one_text_of_256_that_the_model_refuses_costs_only_itself(database_url: str) -> None:
    chunk = [news(index, "boom" if index == 77 else "") for index in range(256)]
    outlet = MemoryOutlet()
    async with opened(database_url, scorer=StubScorer(refuse="boom")) as pipeline:
        applied = await take(pipeline, chunk, outlet)
        assert (applied.new, len(applied.dead)) == (255, 1)
        letter = await only(pipeline.database, dead_letters)
        assert (letter["offset"], letter["value"]) == (77, chunk[77].value)
        assert (letter["stage"], letter["reason"], letter["exception"]) == ("score", "unscorable", "ScoringError")
        assert _offsets(await rows(pipeline.database, events)) == [*range(77), *range(78, 256)]
        assert len(await rows(pipeline.database, scores)) == 255
    assert [message.value for message in outlet.dead] == [chunk[77].value]


async def test_an_item_that_the_model_refuses_costs_all_events_that_bring_its_text(database_url: str) -> None:
    chunk = [behavior(0, item="boom"), behavior(1), behavior(2, "bob", "boom")]
    async with opened(database_url, scorer=StubScorer(refuse="boom")) as pipeline:
        applied = await take(pipeline, chunk, where=place("behavior"))
        assert applied.new == 1
        assert _offsets(await rows(pipeline.database, dead_letters)) == [0, 2]


async def test_a_model_that_crashes_on_one_text_costs_only_that_event(database_url: str) -> None:
    class Crashing(StubScorer):
        def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
            if "boom" in texts:
                raise IndexError("out of vocabulary")
            return super().score(texts, stream, languages)

    async with opened(database_url, scorer=Crashing()) as pipeline:
        applied = await take(pipeline, [news(0), news(1, "boom"), news(2)])
        assert applied.new == 2
        letter = await only(pipeline.database, dead_letters)
        assert (letter["offset"], letter["stage"]) == (1, "score")
        assert "IndexError: out of vocabulary" in letter["message"]


@pytest.mark.parametrize("culprit", [0, 7, 15])
async def test_one_event_of_16_that_the_database_refuses_costs_only_itself(
    database_url: str, culprit: int
) -> None:
    # An index row of PostgreSQL holds some 2,700 bytes; a trigger makes SQLite refuse the same.
    long = secrets.token_hex(4000)
    chunk = [news(index, title=long if index == culprit else None) for index in range(16)]
    chunk.append(news(16, time="never"))
    async with opened(database_url) as pipeline:
        await _refuse_long_titles(pipeline)
        applied = await take(pipeline, chunk)
        assert (applied.new, applied.repeated, len(applied.dead), applied.until) == (15, 0, 2, 17)
        found = {row["offset"]: row for row in await rows(pipeline.database, dead_letters)}
        assert sorted(found) == [culprit, 16]
        assert (found[culprit]["stage"], found[culprit]["reason"]) == ("store", "unstorable")
        assert found[culprit]["value"] == chunk[culprit].value
        assert len(await rows(pipeline.database, events)) == 15
        row = await only(pipeline.database, progress)
        assert {name: row[name] for name in COUNTS} == {"new": 15, "repeated": 0, "dead": 2}
        assert row["stored"] == 17


async def _refuse_long_titles(pipeline: Pipeline) -> None:
    sqlite = (
        "CREATE TRIGGER short BEFORE INSERT ON events WHEN length(NEW.title) > 2700 "
        "BEGIN SELECT RAISE(ABORT, 'index row size exceeds maximum'); END"
    )
    async with pipeline.database.begin() as connection:
        await connection.exec_driver_sql(
            sqlite if pipeline.database.is_sqlite else "CREATE INDEX short ON events (title)"
        )


async def test_scored_messages_keep_their_order_around_a_refused_event(database_url: str) -> None:
    chunk = [news(index, title=secrets.token_hex(4000) if index == 2 else None) for index in range(6)]
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        await _refuse_long_titles(pipeline)
        await take(pipeline, chunk, outlet)
    assert [each.id for each in outlet.scored] == ["n0", "n1", "n3", "n4", "n5"]


class Picky:
    """A reaction that fails on some events and keeps the others."""

    def __init__(self, refuse: str) -> None:
        self.refuse = refuse
        self.kept: list[str] = []

    async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        if any(each.event.id == self.refuse for each in new):
            raise ReactionError(f"cannot react to {self.refuse}")
        self.kept += [each.event.id for each in new]


def _with(pipeline: Pipeline, reaction: Picky, outlet: MemoryOutlet | None = None) -> Flow:
    flow = pipeline.flow("news", outlet or MemoryOutlet())
    flow._reactions = [reaction]
    return flow


async def test_a_reaction_that_fails_on_one_event_costs_only_that_event(database_url: str) -> None:
    reaction = Picky("n5")
    async with opened(database_url) as pipeline:
        applied = await _with(pipeline, reaction).process(Chunk(place(), [news(i) for i in range(8)]), Turn())
        assert (applied.new, len(applied.dead)) == (7, 1)
        letter = await only(pipeline.database, dead_letters)
        assert (letter["offset"], letter["stage"], letter["reason"]) == (5, "react", "reaction_failed")
        assert _offsets(await rows(pipeline.database, events)) == [0, 1, 2, 3, 4, 6, 7]
    assert sorted(reaction.kept) == ["n0", "n1", "n2", "n3", "n4", "n6", "n7"]


async def test_reactions_hear_of_new_events_only(database_url: str) -> None:
    reaction = Picky("")
    async with opened(database_url) as pipeline:
        flow = _with(pipeline, reaction)
        await flow.process(Chunk(place(), [news(0), news(1)]), Turn())
        await flow.process(Chunk(place(), [news(1), news(2)]), Turn())
    assert reaction.kept == ["n0", "n1", "n2"]


async def test_a_reaction_is_told_the_row_the_score_and_the_visible_tick(database_url: str) -> None:
    told: list[NewEvent] = []

    class Listening(Picky):
        async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
            told.extend(new)

    async with opened(database_url) as pipeline:
        await _with(pipeline, Listening("")).process(Chunk(place(), [news(0, "Shares fall")]), Turn())
        row = await only(pipeline.database, events)
    assert (told[0].id, told[0].visible_tick) == (row["id"], row["visible_tick"])
    assert told[0].score == StubScorer().score(["Shares fall"], "news")[0]


@pytest.mark.parametrize("where", ["progress", "INTO events", "INTO scores", "UPDATE progress"])
async def test_a_database_that_goes_away_within_the_transaction_is_waited_for(
    database_url: str, where: str
) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        with outage(pipeline.database, 3, where) as failed:
            applied = await take(pipeline, [news(0), news(1)], outlet)
        assert len(failed) == 3
        assert (applied.new, applied.repeated, applied.dead) == (2, 0, [])
        assert await rows(pipeline.database, dead_letters) == []
        row = await only(pipeline.database, progress)
        assert (row["new"], row["repeated"], row["stored"]) == (2, 0, 2)
    assert len(outlet.scored) == 2


async def test_a_database_that_is_away_when_items_are_looked_up_is_waited_for(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        with outage(pipeline.database, 2, "FROM item_scores") as failed:
            applied = await take(pipeline, [behavior(0)], where=place("behavior"))
        assert len(failed) == 2
        assert (applied.new, applied.dead) == (1, [])


async def test_a_database_that_stays_away_ends_the_flow_with_nothing_lost(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url, database=SHORT) as pipeline:
        with outage(pipeline.database, 10_000), pytest.raises(DatabaseError, match="went away"):
            await take(pipeline, [news(0)], outlet)
        assert await rows(pipeline.database, dead_letters) == []
        assert await rows(pipeline.database, progress) == []
    assert (outlet.scored, outlet.dead) == ([], [])


async def test_a_transaction_whose_answer_was_lost_counts_once(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        apply = pipeline._store.apply
        answers = [DatabaseError("the connection broke at the commit")]

        async def lose_the_answer(*given: Any) -> Any:
            applied = await apply(*given)
            if answers:
                raise answers.pop()
            return applied

        pipeline._store.apply = lose_the_answer  # type: ignore[method-assign]
        await take(pipeline, [news(0), news(1)], outlet)
        row = await only(pipeline.database, progress)
        assert {name: row[name] for name in COUNTS} == {"new": 2, "repeated": 0, "dead": 0}
    assert [each.id for each in outlet.scored] == ["n0", "n1"]


@pytest.mark.postgres
async def test_a_postgresql_that_is_killed_and_comes_back_costs_nothing() -> None:
    why = pgprograms.available()
    if why is not None:
        pytest.skip(why)
    with LocalPostgres(fsync=False) as server:
        settings = await upgraded(settings_for(server.url(server.create()), database={"outage_deadline": 60.0}))
        async with await compose(settings, scorer=StubScorer(), clock=Clock()) as pipeline:
            await take(pipeline, [news(0)])
            await asyncio.to_thread(server.kill)
            away = asyncio.Event()
            apply = pipeline._store.apply

            async def watched(*given: Any) -> Any:
                try:
                    return await apply(*given)
                except DatabaseError:
                    away.set()
                    raise

            pipeline._store.apply = watched  # type: ignore[method-assign]
            under_way = asyncio.create_task(take(pipeline, [news(1), news(2)]))
            await away.wait()
            await asyncio.to_thread(server.start)
            assert (await under_way).new == 2
            assert _offsets(await rows(pipeline.database, events)) == [0, 1, 2]
            assert await rows(pipeline.database, dead_letters) == []
            assert (await only(pipeline.database, progress))["new"] == 3


async def test_two_processes_that_are_given_the_same_chunk_store_it_once(database_url: str) -> None:
    chunk = [news(index) for index in range(50)]
    async with opened(database_url) as one, opened(database_url) as other:
        done = await asyncio.gather(*[take(pipeline, chunk) for pipeline in (one, other)])
        assert sorted(applied.new for applied in done) == [0, 50]
        assert len(await rows(one.database, events)) == 50
        row = await only(one.database, progress)
        assert {name: row[name] for name in COUNTS} == {"new": 50, "repeated": 0, "dead": 0}


async def _waiting(pipeline: Pipeline, count: int) -> None:
    """Until so many transactions wait for a lock."""
    async with asyncio.timeout(10):
        while True:
            async with pipeline.database.read() as connection:
                found = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
                if found.scalar_one() == count:
                    return


@pytest.mark.parametrize("shared", ["users", "items"])
async def test_two_processes_lock_what_they_share_in_one_order(postgres: LocalPostgres, shared: str) -> None:
    url = postgres.url(postgres.create())
    names = ["a", "b", "c"]
    async with opened(url, database={"outage_deadline": 0.01}) as pipeline:
        # A third process holds the one in the middle until both wait: in two orders that is a deadlock.
        if shared == "users":
            key = pipeline.instance.hash_key
            names.sort(key=lambda name: subject_hash(key, name))
            held = insert(subjects).values(subject_hash=subject_hash(key, names[1]), apply_sequence=0)
        else:
            await take(pipeline, [behavior(0, item=names[1])], where=place("behavior", 9))
            row = await only(pipeline.database, item_scores)
            async with pipeline.database.begin() as connection:
                await connection.execute(delete(item_scores))
            held = insert(item_scores).values(**row)

        def chunk(part: int, order: Sequence[str]) -> list[Line]:
            pairs = [(name, f"{part}{name}") if shared == "users" else (f"{part}{name}", name) for name in order]
            return [behavior(index, *pair, id=f"{part}-{index}") for index, pair in enumerate(pairs)]

        await take(pipeline, [behavior(0, "z", "z", id="z")], where=place("behavior", 8))
        running = []
        async with pipeline.database.engine.connect() as holder:
            await holder.execute(held)
            for part, order in enumerate((names, names[::-1])):
                flow = pipeline.flow("behavior", MemoryOutlet())
                where = Chunk(place("behavior", part), chunk(part, order))
                running.append(asyncio.create_task(flow.process(where, Turn())))
                await _waiting(pipeline, part + 1)
            await holder.rollback()
        assert [applied.new for applied in await asyncio.gather(*running)] == [3, 3]
