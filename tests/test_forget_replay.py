"""Who was forgotten stays forgotten: a replay of the log comes in blank, and workers go on meanwhile."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ann import BEHAVIOR, CHAT, LATER, agent, event_named, forget_her, from_ann, rules_in, told
from held import is_held_up
from helpers import EVENT_TIME, NOW, SECOND, Clock, Languages, behavior, only, opened, outage, place, take
from helpers import rows as read
from sqlalchemy import delete

from models.stub import StubScorer
from pipeline.compose import Pipeline
from pipeline.decode import Decoder
from pipeline.deliver import MemoryOutlet
from pipeline.settings import EventSettings
from pipeline.store import forget as forgetting
from pipeline.store.chunks import ChunkStore
from pipeline.work import ScoredEvent
from schemas.scores import EntityResult, HeadResult, Score, Word
from schemas.tables import alerts, dead_letters, events, item_scores, outbox, scores

SOON = "2024-05-31T09:30:03Z"  # before NOW


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    return rules_in(tmp_path)


@pytest.mark.parametrize("before", [None, EVENT_TIME - 1])
async def test_a_chunk_of_younger_events_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, before: int | None
) -> None:
    monkeypatch.delattr(forgetting, "subject_hash")
    monkeypatch.delattr(forgetting, "conversation_hash")
    no_connection: Any = None
    decoder = Decoder("chat", b"k", EventSettings())
    scored = ScoredEvent(decoder.decode(from_ann(0)), None)
    assert await forgetting.blank_forgotten(no_connection, b"k", [scored], before) == [None]


async def test_what_comes_again_of_a_forgotten_person_is_stored_blank(database_url: str) -> None:
    chunk = [behavior(0, session="s", attributes={"city": "Bern"}), behavior(1, "bob")]
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        applied = await take(pipeline, chunk, where=BEHAVIOR)
        blank, other = await read(pipeline.database, events)
        assert applied.new == 2
        assert (told(blank), blank["forgotten_at"], blank["apply_sequence"]) == ({}, NOW, None)
        assert (blank["item"], blank["action"], blank["event_id"]) == ("i1", "click", "b0")
        assert (other["subject"], other["forgotten_at"]) == ("bob", None)


async def test_a_replay_after_the_rows_were_lost_brings_no_word_back(
    database_url: str, rules: dict[str, str]
) -> None:
    chunk = [agent(0), from_ann(1), agent(2)]
    outlet = MemoryOutlet()
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, chunk, where=CHAT)
        await forget_her(pipeline)
        async with pipeline.database.begin() as connection:
            for table in (scores, alerts, outbox, events):
                await connection.execute(delete(table))
        await take(pipeline, chunk, outlet, place("chat", incarnation="another"))
        stored = await read(pipeline.database, events)
        assert [(told(row), row["forgotten_at"]) for row in stored] == [({}, NOW)] * 3
        heads = [head for row in await read(pipeline.database, scores) for head in row["heads"].values()]
        assert [head["words"] for head in heads] == [[]] * len(heads)
        assert await read(pipeline.database, alerts) == []
    assert (outlet.scored, outlet.messages) == ([], [])


class NamingScorer(StubScorer):
    """Finds Ann in every text."""

    def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
        named = EntityResult("Ann", 5, 8, "person", 0.75)
        head = HeadResult("person", 0.75, "label", [Word("Ann", 0.75)], [named])
        return [
            msgspec.structs.replace(each, heads={"entity": head})
            for each in super().score(texts, stream, languages)
        ]


async def test_a_replay_brings_no_entity_back(database_url: str) -> None:
    async with opened(database_url, scorer=NamingScorer()) as pipeline:
        await forget_her(pipeline)
        await take(pipeline, [from_ann(1)], where=CHAT)
        head = (await only(pipeline.database, scores))["heads"]["entity"]
        assert (head["label"], head["words"], head["entities"]) == ("person", [], [])


async def test_the_item_of_a_blank_event_keeps_what_the_model_said_of_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        heads = (await only(pipeline.database, item_scores))["heads"]
        assert [head["words"] for head in heads.values()] != [[]] * len(heads)


async def test_who_comes_back_is_stored_as_ever_and_their_order_goes_on(database_url: str) -> None:
    async with opened(database_url, clock=Clock(NOW + 60 * SECOND)) as pipeline:
        await take(pipeline, [behavior(0), behavior(1)], where=BEHAVIOR)
        await forget_her(pipeline)
        await take(pipeline, [behavior(2, time=LATER), behavior(3, time=SOON)], where=BEHAVIOR)
        back = await event_named(pipeline, "b2")
        assert (back["subject"], back["text"], back["apply_sequence"]) == ("ann", "all about i1", 3)
        assert (await event_named(pipeline, "b3"))["forgotten_at"] == NOW


async def test_a_conversation_in_which_they_turn_up_late_is_forgotten_too(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await take(pipeline, [agent(0), agent(1, conversation="k2"), agent(8, time=LATER)], where=CHAT)
        await take(pipeline, [agent(2), from_ann(3), agent(4), agent(5, conversation="k2")], where=CHAT)
        await take(pipeline, [agent(6), agent(7, time=LATER)], where=CHAT)
        stored = await read(pipeline.database, events)
        blank = [row["event_id"] for row in stored if row["forgotten_at"] == NOW]
        assert blank == ["c0", "c2", "c3", "c4", "c6"]
        assert [told(row) for row in stored if row["forgotten_at"] == NOW] == [{}] * 5


async def test_a_conversation_that_is_forgotten_already_is_not_looked_for_again(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await take(pipeline, [from_ann(0)], where=CHAT)
        with outage(pipeline.database, 1, "INSERT INTO subjects") as asked:
            await take(pipeline, [from_ann(1)], where=CHAT)
        assert asked == []


async def test_each_person_has_a_moment_of_their_own(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await forget_her(pipeline, "bob", NOW + 60 * SECOND)
        await take(pipeline, [behavior(0, time=LATER), behavior(1, "bob", time=LATER)], where=BEHAVIOR)
        found = [row["forgotten_at"] for row in await read(pipeline.database, events)]
        assert found == [None, NOW + 60 * SECOND]


async def test_a_transaction_that_is_tried_again_still_knows_who_was_forgotten(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        with outage(pipeline.database, 1, "UPDATE progress"):
            await take(pipeline, [agent(0), from_ann(1)], where=CHAT)
        await take(pipeline, [agent(2)], where=CHAT)
        assert [row["forgotten_at"] for row in await read(pipeline.database, events)] == [NOW] * 3


async def test_a_dead_letter_of_a_blank_event_holds_nothing(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        await forget_her(pipeline)
        applied = await take(pipeline, [behavior(1, id="b0", session="other")], where=BEHAVIOR)
        assert len(applied.dead) == 1
        row = await only(pipeline.database, dead_letters)
        assert (row["key"], row["value"], row["headers"]) == (None, None, [])


async def test_a_chunk_in_its_transaction_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote, go = asyncio.Event(), asyncio.Event()
    insert_scores = ChunkStore._insert_scores

    async def slowly(*given: Any) -> None:
        await insert_scores(*given)
        wrote.set()
        await go.wait()

    async with opened(database_url) as pipeline:
        monkeypatch.setattr(ChunkStore, "_insert_scores", slowly)
        writing = asyncio.create_task(take(pipeline, [behavior(0)], where=BEHAVIOR))
        await wrote.wait()
        task = asyncio.create_task(forget_her(pipeline))
        await is_held_up(pipeline.database, task)
        assert not task.done()
        go.set()
        await writing
        assert (await task).events == 1


async def test_workers_go_on_while_somebody_is_forgotten(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 10)

    async def write(pipeline: Pipeline, partition: int) -> None:
        for chunk in range(10):
            users = ["ann" if offset % 2 else "bob" for offset in range(10)]
            lines = [
                behavior(chunk * 10 + at, user, id=f"{partition}/{chunk}/{at}", time=LATER)
                for at, user in enumerate(users)
            ]
            await take(pipeline, lines, where=place("behavior", partition))

    async with opened(database_url, clock=Clock(NOW + 60 * SECOND)) as pipeline:
        await take(pipeline, [behavior(index) for index in range(100)], where=place("behavior", 9))
        *_, done = await asyncio.gather(*(write(pipeline, number) for number in range(3)), forget_her(pipeline))
        stored = await read(pipeline.database, events)
        assert len(stored) == 400
        assert {row["subject"] for row in stored if row["event_time"] <= NOW} == {None}
        # What came while it ran is either from before it, and blank, or stays.
        assert sum(row["forgotten_at"] is not None for row in stored) == done.events
        assert sum(row["subject"] == "bob" for row in stored) == 150
