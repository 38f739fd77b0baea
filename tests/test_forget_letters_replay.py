"""A dead letter that comes in after its person was forgotten holds nothing, in the table and on the topic."""

from typing import Any

import pytest
from ann import BEHAVIOR, CHAT, LATER, forget_her, from_ann
from helpers import NOW, SECOND, Clock, behavior, chat, line, only, opened, outage, place, take

from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.store import forget_letters
from pipeline.store.rows import dead_letter_identity
from pipeline.work import Message
from schemas.events import Dead, Line, Place
from schemas.tables import dead_letters, events

BAD = "31.5.2024"  # no time
EARLIER = "2024-05-31T09:30:00Z"
SPEC = ("ce_specversion", b"1.0")
NO_KIND = {"customer": "ann", "conversation": "k7", "kind": "nonsense", "text": "SECRET"}
CLOUD = {"specversion": "1.0", "source": "desk", "id": "1", "time": EARLIER, "data": NO_KIND}
BINARY = [SPEC, ("ce_source", b"desk"), ("ce_id", b"1"), ("ce_time", EARLIER.encode())]


async def dead_again(pipeline: Pipeline, letter: Line, where: Place) -> tuple[dict[str, Any], Message]:
    outlet = MemoryOutlet()
    await take(pipeline, [letter], outlet, where)
    [message] = outlet.dead
    return await only(pipeline.database, dead_letters), message


@pytest.mark.parametrize(
    ("letter", "where"),
    [
        (chat(0, "SECRET", customer="ann", kind="nonsense"), CHAT),
        (chat(0, "SECRET", customer="ann", time=BAD), CHAT),
        (line(0, CLOUD, b"k7"), CHAT),
        (line(0, NO_KIND, b"k7", headers=BINARY), CHAT),
        (line(0, {"text": "SECRET"}, headers=[*BINARY, ("ce_subject", b"ann")]), CHAT),
        (behavior(0, action="nonsense"), BEHAVIOR),
        (Line(0, b"SECRET", b"ann"), BEHAVIOR),
    ],
)
async def test_a_forgotten_person_is_in_no_dead_letter(database_url: str, letter: Line, where: Place) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        row, message = await dead_again(pipeline, letter, where)
    assert (row["key"], row["value"], row["headers"], row["replayed_at"]) == (None, None, [], NOW)
    assert (message.key, message.value) == (None, None)
    assert [name for name, _ in message.headers if name.startswith("ce_")] == []
    assert row["message"] == forget_letters.BLANK_LETTER
    assert "ann" not in repr(message)


async def test_the_letter_of_a_forgotten_conversation_holds_nothing(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        await forget_her(pipeline)
        row, message = await dead_again(pipeline, chat(1, "SECRET", kind="nonsense"), CHAT)
        assert (row["value"], message.value) == (None, None)


@pytest.mark.parametrize(
    "letter",
    [
        chat(0, customer="ann", kind="nonsense", time=LATER),
        line(0, CLOUD | {"time": LATER}),
        line(0, NO_KIND, headers=[SPEC, ("ce_source", b"desk"), ("ce_time", LATER.encode())]),
        chat(0, customer="joanna", kind="nonsense"),
        Line(0, b"ann"),
        Line(0, b"[" * 100_000, b"k"),
    ],
)
async def test_a_letter_of_later_or_of_somebody_else_is_stored_as_it_came(database_url: str, letter: Line) -> None:
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        await forget_her(pipeline, "bob", NOW + 3600 * SECOND)
        row, message = await dead_again(pipeline, letter, CHAT)
        assert (row["value"], row["replayed_at"]) == (letter.value, None)
        assert (message.key, message.value) == (letter.key, letter.value)


async def test_a_blank_letter_is_known_by_the_bytes_that_it_had(database_url: str) -> None:
    letter = chat(0, "SECRET", customer="ann", kind="nonsense")
    async with opened(database_url) as pipeline:
        await forget_her(pipeline)
        row, _ = await dead_again(pipeline, letter, CHAT)
        assert row["identity"] == dead_letter_identity(CHAT, 0, letter.value)


async def test_an_event_that_the_database_refuses_leaves_no_letter_of_a_forgotten_person(
    database_url: str,
) -> None:
    async with opened(database_url, clock=Clock(NOW + 60 * SECOND)) as pipeline:
        await take(pipeline, [behavior(0, id="b", time=LATER)], where=BEHAVIOR)
        await forget_her(pipeline, now=NOW)
        row, message = await dead_again(pipeline, behavior(1, "ann", "other", id="b"), BEHAVIOR)
        assert (row["value"], message.value) == (None, None)
        assert (await only(pipeline.database, events))["subject"] is None


async def test_no_letter_is_read_while_nobody_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(forget_letters, "_load")
    no_connection: Any = None
    letter = Dead(chat(0), "decode", "schema", "DecodeError", "no")
    assert await forget_letters.blank_dead(no_connection, b"k", "chat", [letter], None) == [letter]


async def test_a_letter_of_after_everybody_who_was_forgotten_asks_the_database_for_nobody(
    database_url: str,
) -> None:
    async with opened(database_url, clock=Clock(NOW + 60 * SECOND)) as pipeline:
        await forget_her(pipeline)
        with outage(pipeline.database, 1, "FROM subjects") as asked:
            await take(pipeline, [chat(0, customer="ann", kind="nonsense", time=LATER)], where=place("chat"))
        assert asked == []
