"""Whatever comes, each record becomes an event or a dead letter, alone and in order."""

import json
from datetime import UTC, datetime
from typing import Any

from decoding import TIME, bare, decoder, forms, read
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Chunk, Dead, Event, Line, Place
from schemas.labels import STREAMS

REFUSALS = {("undecodable", "DecodeError"), ("confluent_schema", "SchemaHeaderError")}


def outcome(stream: str, line: Line) -> tuple[list[Event], list[Dead]]:
    place = Place(stream, "c", "t", "i", 0)
    events, dead = decoder(stream).decode_all(Chunk(place, [line]))
    assert len(events) + len(dead) == 1
    return events, dead


def assert_kept(line: Line, events: list[Event], dead: list[Dead]) -> None:
    assert next(each.record for each in [*events, *dead]) is line
    for letter in dead:
        assert letter.stage == "decode"
        assert (letter.reason, letter.exception) in REFUSALS
        assert "\x00" not in letter.message
        letter.message.encode()
    for event in events:
        for text in (event.source, event.id, event.text, event.key, event.traceparent or ""):
            assert "\x00" not in text
            text.encode()
        json.dumps(event.attributes, allow_nan=False).encode()


SNIPPETS = st.sampled_from(
    [
        b'{"',
        b'"specversion":"1.0",',
        b'"data":',
        b'"text":"',
        b"\\u0000",
        b"\\ud800",
        b"}",
        b"[",
        b"\xff",
        b"1e999",
        b"NaN",
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_specversion", "ce_id", "ce_source", "ce_time", "traceparent", "other"]),
        st.one_of(st.none(), st.binary(max_size=20), st.just(TIME.encode()), st.just(b"1.0")),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(
    stream=st.sampled_from(STREAMS),
    value=st.one_of(st.none(), st.binary(max_size=200), st.lists(SNIPPETS, max_size=12).map(b"".join)),
    headers=HEADERS,
)
def test_any_bytes_become_an_event_or_a_dead_letter_with_the_same_record(
    stream: str, value: bytes | None, headers: Any
) -> None:
    line = Line(0, value, headers=headers)

    assert_kept(line, *outcome(stream, line))


ANY_TEXT = st.text(st.characters(), max_size=20)
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["id", "source", "time", "text", "title", "entities", "attributes", "user", "item", "action", "value"]


@settings(max_examples=300, deadline=None)
@given(
    stream=st.sampled_from(STREAMS),
    changes=st.dictionaries(st.sampled_from([*FIELDS, "role", "kind", "conversation"]), ANY_JSON, max_size=4),
    form=st.sampled_from(["bare", "structured"]),
)
def test_any_json_in_any_field_becomes_an_event_or_a_dead_letter(
    stream: str, changes: dict[str, Any], form: str
) -> None:
    fields = bare(stream) | changes
    value = (
        fields
        if form == "bare"
        else {"specversion": "1.0", **{k: fields[k] for k in ("source", "time")}, "data": fields}
    )
    line = Line(0, json.dumps(value).encode())

    assert_kept(line, *outcome(stream, line))


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(
        str.strip
    ),
    escaped=st.booleans(),
    form=st.sampled_from(["bare", "structured", "binary"]),
)
def test_a_valid_text_comes_out_as_it_went_in(text: str, escaped: bool, form: str) -> None:
    value, headers = forms("news", {"text": text})[form]

    assert read("news", json.dumps(value, ensure_ascii=escaped).encode(), headers).text == text


@settings(max_examples=100, deadline=None)
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2200, 12, 31), timezones=st.timezones()))
def test_any_moment_keeps_its_microsecond(moment: datetime) -> None:
    if not 1970 <= moment.astimezone(UTC).year <= 2200:
        return
    found = read("news", bare(time=moment.isoformat())).time

    assert divmod(found, 1_000_000) == (
        (moment.astimezone(UTC).replace(microsecond=0) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(),
        moment.microsecond,
    )


def test_each_record_of_a_chunk_is_judged_alone_and_in_order() -> None:
    good = [Line(number, json.dumps(bare(id=str(number))).encode()) for number in range(4)]
    bad = Line(9, b"garbage")
    place = Place("news", "c", "t", "i", 0)

    events, dead = decoder("news").decode_all(Chunk(place, [*good[:2], bad, *good[2:]]))

    assert [event.id for event in events] == ["0", "1", "2", "3"]
    assert [letter.record for letter in dead] == [bad]


def test_a_record_that_is_given_up_is_not_read() -> None:
    lines = [Line(number, json.dumps(bare(id=str(number))).encode()) for number in range(3)]
    letter = Dead(lines[1], "process", "poison", "PoisonError", "it kills")

    events, dead = decoder("news").decode_all(Chunk(Place("news", "c", "t", "i", 0), lines, [letter]))

    assert [event.id for event in events] == ["0", "2"]
    assert dead == [letter]
