"""Dead letters of who is forgotten lose their bytes, those of everybody else keep them."""

from typing import Any

import pytest
from ann import BEHAVIOR, CHAT, agent, forget_her, from_ann
from helpers import NOW, SECOND, behavior, chat, line, only, opened, take

from pipeline.store import forget as forgetting
from pipeline.store import forget_letters, retention
from schemas.errors import DatabaseError
from schemas.events import Line
from schemas.tables import dead_letters

BAD = "31.5.2024"  # no time


@pytest.mark.parametrize(
    ("subject", "letter"),
    [
        ("ann", chat(0, "x", customer="joanna", time=BAD)),
        # Our own sentence says "cannot be read".
        ("ann", chat(0, "x", customer="bob", time=BAD)),
        ("read", chat(0, "x", customer="bob", time=BAD)),
        ("ann", chat(0, "dear ann, your card", customer="bob", time=BAD)),
        ("ann", Line(0, b'{"user": "joanna"')),
        ("ann", Line(0, b"\xff", b"user:joanna")),
        ("ann", Line(0, b"{}", headers=[("ce_subject", b"joanna")])),
        ("17", chat(0, "x", customer="4217", time=BAD)),
        ("17", chat(0, "order 17", customer="bob", time=BAD)),
        ("17", line(0, {"customer": 4217, "price": 17.5})),
        ("17", Line(0, b'{"user": "carol", "ts": "2017-01-01"')),
        ("2024", Line(0, b'{"user": "carol", "ts": "2024-01-01"')),
        ("30", Line(0, b'{"user": "carol", "ts": "2024-01-01T09:30:15Z"')),
        ("30", Line(0, b'{"user": "carol", "price": 2.30')),
        ("01", Line(0, b"{}", headers=[("traceparent", b"00-0af7651916cd43dd-b7ad6b7169203331-01")])),
        ("user", Line(0, b'{"user": "carol"}')),
    ],
)
async def test_a_letter_that_only_contains_the_name_stays(database_url: str, subject: str, letter: Line) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [letter], where=CHAT)
        before = await only(pipeline.database, dead_letters)
        assert (await forget_her(pipeline, subject)).dead_letters == 0
        assert await only(pipeline.database, dead_letters) == before


@pytest.mark.parametrize(
    ("subject", "letter"),
    [
        ("ann", chat(0, "x", customer="ann", time=BAD)),
        ("ann", line(0, {"data": {"people": [{"name": "bob"}, {"name": "ann"}]}})),
        ("ann", Line(0, b'{"customer": "ann", "customer": "bob"}')),
        ("a/b", Line(0, rb'{"customer": "a\/b"}')),
        ("17", line(0, {"customer": 17})),
        ("1.50", Line(0, b'{"customer": 1.50}')),
        ("17", Line(0, b'{"customer": 17, ')),
        ("17", Line(0, b"\xff", b"user:17")),
        ("ann", Line(0, b"\x00\x00\x00\x00\x01ann, who", b"k")),
        ("ann", Line(0, b"[" * 100_000 + b'"ann"')),
    ],
)
async def test_a_letter_that_names_the_person_loses_its_bytes(
    database_url: str, subject: str, letter: Line
) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [letter], where=CHAT)
        assert (await forget_her(pipeline, subject)).dead_letters == 1
        row = await only(pipeline.database, dead_letters)
        assert (row["key"], row["value"], row["headers"]) == (None, None, [])
        assert row["message"] == forget_letters.BLANK_LETTER


@pytest.mark.parametrize("before", ["", "a ", "an ", "and "])
async def test_a_letter_that_names_the_person_in_a_header_loses_its_bytes(database_url: str, before: str) -> None:
    told = [("other", b"1"), ("ce_subject", f"{before}Ännchen!".encode())]
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, b'{"x": 1}', b"k", headers=told)], where=CHAT)
        assert (await forget_her(pipeline, "Ännchen")).dead_letters == 1
        assert (await only(pipeline.database, dead_letters))["headers"] == []


async def test_letters_that_only_look_alike_do_not_end_the_search(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_letters, "BATCH", 2)
    alike = [Line(index, b"joanna") for index in range(5)]
    async with opened(database_url) as pipeline:
        await take(pipeline, [*alike, Line(5, b"ann")], where=CHAT)
        assert (await forget_her(pipeline)).dead_letters == 1


# Conversations


@pytest.mark.parametrize(
    "letter",
    [
        chat(1, "my IBAN", time=BAD),
        line(1, {"conversation": "k1", "text": "my IBAN"}),
        line(1, {"specversion": "1.0", "data": {"conversation": "k1", "text": "my IBAN"}}),
        Line(1, b"{}", headers=[("ce_subject", b"k1")]),
        Line(1, b'{"conversation": "k1", "text": "my IB'),
    ],
)
async def test_a_letter_of_their_conversation_loses_its_bytes(database_url: str, letter: Line) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0), letter], where=CHAT)
        assert (await forget_her(pipeline)).dead_letters == 1
        row = await only(pipeline.database, dead_letters)
        assert (row["key"], row["value"], row["headers"]) == (None, None, [])


@pytest.mark.parametrize(
    ("letter", "stream"),
    [
        (line(1, {"conversation": "k2", "attributes": {"branch": "k1"}}, b"k2"), CHAT),
        (line(1, {"conversation": "k10"}, b"k10"), CHAT),
        (behavior(1, "k1", time=BAD), BEHAVIOR),
    ],
)
async def test_a_letter_of_another_conversation_stays(database_url: str, letter: Line, stream: Any) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [from_ann(0)], where=CHAT)
        await take(pipeline, [letter], where=stream)
        assert (await forget_her(pipeline)).dead_letters == 0
        assert (await only(pipeline.database, dead_letters))["value"] == letter.value


async def test_more_conversations_than_one_query_takes_are_sought_in_several(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_letters, "CONVERSATIONS", 2)
    said = [from_ann(index, conversation=f"c{index}") for index in range(5)]
    dead = [line(5 + index, {"conversation": f"c{index}"}) for index in range(5)]
    async with opened(database_url) as pipeline:
        await take(pipeline, [*said, *dead], where=CHAT)
        assert (await forget_her(pipeline)).dead_letters == 5


@pytest.mark.parametrize("length", [3, 300])
def test_a_query_for_conversations_stays_below_what_sqlite_takes(length: int) -> None:
    names = [f'ä/"{index:0{length}}' for index in range(forget_letters.CONVERSATIONS)]
    forms = [form for name in names for form in forget_letters._written(name)]
    assert len(forms) + 2 * len(names) < 900


async def test_a_call_that_ended_at_the_letters_is_finished_by_calling_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise DatabaseError("the server went away")

    async with opened(database_url) as pipeline:
        await take(pipeline, [agent(0), from_ann(1), chat(2, "my IBAN", time=BAD)], where=CHAT)
        with monkeypatch.context() as patch:
            patch.setattr(retention, "PATIENCE", 0.0)
            patch.setattr(forgetting, "blank_letters", fail)
            with pytest.raises(DatabaseError):
                await forget_her(pipeline)
        assert (await forget_her(pipeline, now=NOW + SECOND)).dead_letters == 1
