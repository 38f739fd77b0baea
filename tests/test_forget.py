"""A person is forgotten: what they said goes everywhere, the counts stay, and readers are told."""

from pathlib import Path
from typing import Any

import pytest
from ann import (
    BEHAVIOR,
    CHAT,
    LATER,
    LONG_AFTER,
    agent,
    event_named,
    forget_her,
    from_ann,
    rules_in,
    told,
)
from helpers import NOW, SECOND, Clock, behavior, chat, news, only, opened, take
from helpers import rows as read
from sqlalchemy import Table, update

from pipeline.deliver import MemoryOutlet
from pipeline.store import forget as forgetting
from pipeline.store import retention, rows
from pipeline.store.database import Database
from pipeline.store.forget import Forgotten
from pipeline.sweep import sweep
from schemas.errors import DatabaseError, UsageError
from schemas.events import Line
from schemas.tables import (
    alerts,
    dead_letters,
    events,
    instance,
    item_scores,
    metadata,
    outbox,
    progress,
    scores,
    subjects,
)

NOTHING = Forgotten(0, 0, 0, 0, 0, 0)


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    return rules_in(tmp_path)


async def everything(database: Database) -> str:
    """All that the database says but for what it says of items."""
    tables: list[Table] = [table for table in metadata.sorted_tables if table is not item_scores]
    return " ".join([repr(row) for table in tables for row in await read(database, table)])


# What is stored


async def test_an_event_keeps_its_place_and_loses_what_was_said_and_by_whom(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, session="s1", attributes={"city": "Bern"}, value=2.5)], where=BEHAVIOR)
        before = await only(pipeline.database, events)
        done = await forget_her(pipeline)
        after = await only(pipeline.database, events)
        assert (done.events, after["forgotten_at"]) == (1, NOW)
        assert told(before) != {}
        assert told(after) == {}
        assert before | dict.fromkeys(told(before)) | {"forgotten_at": NOW} == after


async def test_events_of_others_stay_as_they_are(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0), behavior(1, "anna"), behavior(2, "bob")], where=BEHAVIOR)
        before = (await read(pipeline.database, events))[1:]
        await forget_her(pipeline)
        assert (await read(pipeline.database, events))[1:] == before


async def test_the_counts_of_the_partitions_stay(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0), behavior(1)], where=BEHAVIOR)
        before = await only(pipeline.database, progress)
        await forget_her(pipeline)
        assert await only(pipeline.database, progress) == before


async def test_a_conversation_is_forgotten_with_what_the_agent_said_in_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [agent(0), from_ann(1), agent(2), agent(3, conversation="k2")], where=CHAT)
        done = await forget_her(pipeline)
        assert (done.events, done.conversations) == (3, 1)
        stored = await read(pipeline.database, events)
        assert [row["text"] is None for row in stored] == [True, True, True, False]
        assert [row["forgotten_at"] for row in stored] == [NOW, NOW, NOW, None]


async def test_scores_keep_labels_and_lose_the_words_of_the_text(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        heads = {"intent": {"label": "card", "probability": 0.75, "decision": "label", "words": [["card", 0.5]]}}
        async with pipeline.database.begin() as connection:
            await connection.execute(update(scores).values(heads=heads, embedding=b"\x01", scale=0.5))
        await forget_her(pipeline)
        row = await only(pipeline.database, scores)
        assert row["heads"] == {"intent": heads["intent"] | {"words": []}}
        assert (row["embedding"], row["scale"]) == (None, None)


async def test_scores_lose_the_entities_of_the_text(database_url: str) -> None:
    entity = {"text": "Ann", "start": 0, "end": 3, "type": "person", "probability": 0.75, "heads": {}}
    head = {"label": "person", "probability": 0.75, "decision": "label", "words": [["Ann", 0.75]]}
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        async with pipeline.database.begin() as connection:
            await connection.execute(update(scores).values(heads={"entity": head | {"entities": [entity]}}))
        await forget_her(pipeline)
        row = await only(pipeline.database, scores)
        assert row["heads"] == {"entity": head | {"words": [], "entities": []}}


async def test_what_the_model_said_of_an_item_stays(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        before = await only(pipeline.database, item_scores)
        await forget_her(pipeline)
        assert await only(pipeline.database, item_scores) == before


async def test_an_alert_keeps_its_identity_and_loses_its_evidence(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        await take(pipeline, [news(0, "bankrupt")])
        mine, other = await read(pipeline.database, alerts)
        assert (await forget_her(pipeline)).alerts == 1
        blank = mine | {"evidence": {"forgotten": True}, "updated_at": NOW}
        assert await read(pipeline.database, alerts) == [blank, other]


async def test_nothing_of_the_person_is_left_in_the_database(database_url: str, rules: dict[str, str]) -> None:
    secret = "Xylophonia-7"
    async with opened(database_url, rules=rules) as pipeline:
        said = [from_ann(0, f"my card, says {secret}", customer=secret), agent(1, f"dear {secret}")]
        broken = chat(2, "x", customer=secret, time="never")
        await take(pipeline, [*said, broken], where=CHAT)
        await take(pipeline, [behavior(0, secret, session=f"{secret}/1")], where=BEHAVIOR)
        assert secret in await everything(pipeline.database)
        await forget_her(pipeline, secret)
        await sweep(pipeline.database, MemoryOutlet(), Clock(LONG_AFTER))
        left = await everything(pipeline.database)
        assert secret not in left
        assert secret.encode().hex() not in left


@pytest.mark.parametrize(
    ("subject", "value"),
    [
        ("ann", b'{"customer": "ann"'),
        ("Änne", '{"customer": "Änne"'.encode()),
        ("Änne", rb'{"customer": "\u00c4nne"'),
        ("Änne", rb'{"customer": "\u00C4nne"'),
        ('a"b\\c', rb'{"customer": "a\"b\\c"'),
        ('Ä"nne', r'{"customer": "Ä\"nne"'.encode()),
        ("😀", rb'{"customer": "\ud83d\ude00"'),
    ],
)
async def test_a_dead_letter_that_names_the_person_loses_its_bytes(
    database_url: str, subject: str, value: bytes
) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, value, b"k", headers=[("h", b"1")]), Line(1, b"other")], where=CHAT)
        before, other = await read(pipeline.database, dead_letters)
        assert (await forget_her(pipeline, subject)).dead_letters == 1
        after, kept = await read(pipeline.database, dead_letters)
        assert (after["key"], after["value"], after["headers"]) == (None, None, [])
        assert "forgotten" in after["message"]
        assert (after["identity"], after["reason"]) == (before["identity"], before["reason"])
        assert kept == other


async def test_a_dead_letter_that_names_the_person_in_its_key_loses_its_bytes(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, b"\xff\xfe", b"user:ann")], where=CHAT)
        assert (await forget_her(pipeline)).dead_letters == 1
        assert (await only(pipeline.database, dead_letters))["key"] is None


async def test_a_dead_letter_whose_bytes_are_gone_is_not_tried_again(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, b"ann", b"k")], where=CHAT)
        await forget_her(pipeline)
        assert (await only(pipeline.database, dead_letters))["replayed_at"] == NOW


async def test_more_rows_than_a_batch_are_blanked_in_several(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 3)
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(index, f"{index}") for index in range(7)], where=CHAT)
        await take(pipeline, [agent(index) for index in range(7, 14)], where=CHAT)
        await take(pipeline, [Line(index, b"ann") for index in range(14, 21)], where=CHAT)
        done = await forget_her(pipeline)
        assert (done.events, done.dead_letters) == (14, 7)
        assert [told(row) for row in await read(pipeline.database, events)] == [{}] * 14


# Called again


async def test_a_second_call_blanks_nothing_more_and_sends_nothing_more(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [from_ann(0), agent(1), Line(2, b"ann")], where=CHAT)
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        await forget_her(pipeline)
        tables = (events, scores, alerts, outbox, dead_letters)
        before = [await read(pipeline.database, table) for table in tables]
        assert await forget_her(pipeline, now=NOW + SECOND) == NOTHING
        assert [await read(pipeline.database, table) for table in tables] == before


@pytest.mark.parametrize(("batch", "left"), [(1, 6), (2, 4), (3, 3), (4, 1)])
async def test_an_interrupted_call_is_finished_by_calling_again(
    database_url: str, rules: dict[str, str], monkeypatch: pytest.MonkeyPatch, batch: int, left: int
) -> None:
    chunk = [agent(0), from_ann(1), agent(2), agent(3), from_ann(4), from_ann(5)]
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, chunk, where=CHAT)
        with monkeypatch.context() as patch:
            patch.setattr(forgetting, "BATCH", 2)
            patch.setattr(retention, "PATIENCE", 0.0)
            patch.setattr(forgetting, "_blank_rows", _failing(batch))
            with pytest.raises(DatabaseError):
                await forget_her(pipeline)
        assert (await forget_her(pipeline, now=NOW + SECOND)).events == left
        assert [told(row) for row in await read(pipeline.database, events)] == [{}] * 6
        assert [row["evidence"] for row in await read(pipeline.database, alerts)] == [{"forgotten": True}] * 6
        tombstones = {
            row["key"] for row in await read(pipeline.database, outbox) if ":forgotten:" in row["identity"]
        }
        assert tombstones == {b"k1", *(f"lost-card//chat/desk/c{number}".encode() for number in range(6))}


def _failing(call: int) -> Any:
    """Blanks rows as ever, but for one call, after which the database is away."""
    blank, calls = forgetting._blank_rows, 0

    async def fail(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        done = await blank(*given)
        if calls == call:
            raise DatabaseError("the server went away")
        return done

    return fail


async def test_a_person_of_whom_nothing_is_stored_is_remembered(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        assert await forget_her(pipeline) == NOTHING
        row = await only(pipeline.database, subjects)
        assert row["subject_hash"] == rows.subject_hash(pipeline.instance.hash_key, "ann")
        assert row["forgotten_at"] == NOW
        assert (await only(pipeline.database, instance))["forgotten_before"] == NOW


async def test_a_conversation_that_is_named_as_a_person_is_not_forgotten_with_them(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await take(pipeline, [agent(0, conversation="ann")], where=CHAT)
        assert (await only(pipeline.database, events))["forgotten_at"] is None


async def test_a_second_call_forgets_what_came_since(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=BEHAVIOR)
        await forget_her(pipeline)
        await take(pipeline, [behavior(1, time=LATER)], where=BEHAVIOR)
        done = await forget_her(pipeline, now=NOW + 60 * SECOND)
        assert (done.events, done.tombstones) == (1, 1)
        assert (await event_named(pipeline, "b0"))["forgotten_at"] == NOW
        assert (await event_named(pipeline, "b1"))["forgotten_at"] == NOW + 60 * SECOND
        assert (await only(pipeline.database, instance))["forgotten_before"] == NOW + 60 * SECOND


async def test_a_call_by_a_clock_that_is_behind_takes_nothing_back(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await forget_her(pipeline, now=NOW - SECOND)
        assert (await only(pipeline.database, subjects))["forgotten_at"] == NOW
        assert (await only(pipeline.database, instance))["forgotten_before"] == NOW


async def test_who_is_named_as_a_word_of_ours_is_not_found_in_blank_dead_letters(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, b"person")], where=CHAT)
        assert (await forget_her(pipeline, "person")).dead_letters == 1
        assert (await forget_her(pipeline, "person")).dead_letters == 0


async def test_what_comes_in_while_it_runs_stays(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blank_all = forgetting._blank_all
    coming = [[agent(1, time=LATER), from_ann(2, time=LATER)]]

    async def late(database: Database, batch: Any) -> Any:
        if coming:
            await take(pipeline, coming.pop(), where=CHAT)
        return await blank_all(database, batch)

    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        monkeypatch.setattr(forgetting, "_blank_all", late)
        assert (await forget_her(pipeline)).events == 1
        assert [row["forgotten_at"] for row in await read(pipeline.database, events)] == [NOW, None, None]


@pytest.mark.parametrize("subject", ["", "  ", "\udcff"])
async def test_a_subject_that_is_no_name_is_refused(database_url: str, subject: str) -> None:
    async with opened(database_url) as pipeline:
        with pytest.raises(UsageError, match="the subject is "):
            await forget_her(pipeline, subject)
        assert await read(pipeline.database, subjects) == []
