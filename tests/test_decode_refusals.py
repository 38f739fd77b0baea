"""What cannot be an event is refused with a sentence that names the field and the mend."""

import json
from typing import Any

import pytest
from decoding import TIME, bare, decoder, forms, read, sentence

from schemas.errors import DecodeError, SchemaHeaderError
from schemas.events import Line
from schemas.labels import STREAMS

BINARY = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "wire", "ce_time": TIME}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_missing_field_is_named_with_all_that_must_be_there(stream: str) -> None:
    told = sentence(stream, {})

    assert told.startswith("Object missing required field `")
    assert f"; a {stream} event must have source, " in told


@pytest.mark.parametrize("form", ["bare", "structured", "binary"])
def test_a_missing_text_is_named_in_each_form(form: str) -> None:
    assert "missing required field `text`" in sentence("news", *forms("news", {"title": "x"})[form])


@pytest.mark.parametrize(
    ("stream", "change", "told"),
    [
        ("news", {"text": ["x"]}, "text: Expected `str`, got `array`"),
        ("news", {"time": 1717147800}, "time: Expected `str`, got `int`"),
        ("news", {"attributes": "x"}, "attributes: Expected `object | null`, got `str`"),
        ("news", {"entities": ["a", 3]}, "entities[1]: Expected `str | object`, got `int`"),
        ("chat", {"role": "bot"}, "role: Invalid enum value 'bot'"),
        ("chat", {"kind": "call"}, "kind: Invalid enum value 'call'"),
        ("behavior", {"value": "much"}, "value: Expected `float | null`, got `str`"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else None,
)
def test_a_wrong_type_or_value_names_its_field(stream: str, change: dict[str, Any], told: str) -> None:
    found = sentence(stream, bare(stream, **change))

    assert found.startswith(told)
    assert f"a {stream} event must have" in found


@pytest.mark.parametrize("value", [b"[]", b'"text"', b"3", b"null"])
def test_json_that_is_no_object_is_refused(value: bytes) -> None:
    assert sentence("news", value).startswith("Expected `object`, got")


@pytest.mark.parametrize(
    "value", [b"", b"   ", b"{broken", b'{"text": "x"', b"\xef\xbb\xbf", b'{"text": "a\x00b"}']
)
def test_what_is_no_json_is_said_to_be_none(value: bytes) -> None:
    assert sentence("news", value).startswith("the value is no JSON: ")


def test_malformed_json_beside_an_escaped_nul_is_said_to_be_none() -> None:
    assert sentence("news", b'{"text": "\\u0000",').startswith("the value is no JSON: ")


@pytest.mark.parametrize("form", ["bare", "structured", "binary"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xed\xa0\x80"], ids=["no start", "cut short", "surrogate"])
def test_invalid_utf8_is_named_with_its_place(form: str, bad: bytes) -> None:
    value, headers = forms("news", {"text": "here: @"})[form]
    raw = json.dumps(value).encode().replace(b"@", bad)

    assert sentence("news", raw, headers) == f"byte {raw.index(bad)} is no UTF-8; send JSON in UTF-8"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
@pytest.mark.parametrize("beside", [b"x", b"\\u0000"])
def test_a_number_that_json_does_not_have_is_refused(number: bytes, beside: bytes) -> None:
    raw = json.dumps(bare("behavior", value="@", session="#")).encode()

    told = sentence("behavior", raw.replace(b'"@"', number).replace(b"#", beside))

    assert "the value is no JSON" in told or "out of range" in told


def test_a_text_of_five_megabytes_is_refused_with_both_sizes() -> None:
    raw = json.dumps(bare(text="x" * 5_000_000)).encode()

    assert sentence("news", raw) == (
        f"the event has {len(raw):,} bytes, 1,048,576 are allowed; shorten it or raise SALIENCE_EVENTS__MAX_BYTES"
    )


def test_a_setting_moves_the_limit_of_bytes() -> None:
    raw = json.dumps(bare(text="x" * 2000)).encode()

    assert read("news", raw, max_bytes=len(raw)).text.endswith("xxx")
    assert "are allowed" in sentence("news", raw, max_bytes=len(raw) - 1)


@pytest.mark.parametrize("stream", ["news", "chat"])
@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_refused(stream: str, text: str) -> None:
    assert sentence(stream, bare(stream, text=text, title=None)) == "text is empty; there is nothing to read"


@pytest.mark.parametrize(
    ("stream", "field", "mend"),
    [
        ("news", "source", "name where the event comes from"),
        ("chat", "conversation", "name the conversation the message belongs to"),
        ("behavior", "user", "a behavior event names both"),
        ("behavior", "item", "a behavior event names both"),
    ],
)
def test_an_empty_name_is_refused(stream: str, field: str, mend: str) -> None:
    told = sentence(stream, bare(stream, **{field: ""}))

    assert field in told.partition(" is empty; ")[0]
    assert told.endswith(mend)


@pytest.mark.parametrize(
    ("stream", "field"),
    [("news", "source"), ("news", "id"), ("chat", "conversation"), ("chat", "customer"), ("behavior", "item")],
)
def test_a_name_that_no_index_takes_is_refused(stream: str, field: str) -> None:
    told = sentence(stream, bare(stream, **{field: "ä" * 501}))
    assert told.startswith(f"{field} has more than 1,000 bytes")


@pytest.mark.parametrize("form", ["structured", "binary"])
def test_a_cloudevent_without_a_time_is_refused(form: str) -> None:
    told = sentence("news", *forms("news", {"text": "x"}, time="")[form])

    assert told == "time is missing; give the event's time as RFC 3339, like 2024-05-31T09:30:00Z"


def test_a_binary_cloudevent_without_a_source_names_the_header() -> None:
    headers = {name: text for name, text in BINARY.items() if name != "ce_source"}

    assert sentence("news", {"text": "x"}, headers).startswith("the header ce_source is missing; ")


def test_a_wrong_attribute_of_a_structured_cloudevent_is_named() -> None:
    value = {"specversion": "1.0", "id": 7, "source": "wire", "time": TIME, "data": {"text": "x"}}

    assert sentence("news", value) == "id: Expected `str | null`, got `int`, in the CloudEvent's attributes"


@pytest.mark.parametrize("time", ["yesterday", "31.05.2024", "2024-13-01T00:00:00Z", "1717147800"])
def test_a_time_that_cannot_be_read_is_quoted_with_an_example(time: str) -> None:
    assert sentence("news", bare(time=time)) == f"time {time!r} cannot be read; write it like 2024-05-31T09:30:00Z"


@pytest.mark.parametrize(
    "time",
    [
        "1969-12-31T23:59:59.999999Z",
        "2201-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_a_time_outside_the_years_that_are_kept_is_refused(time: str) -> None:
    assert sentence("news", bare(time=time)) == f"time {time!r} lies outside the years 1970 to 2200"


def test_an_action_that_is_not_listed_is_refused_with_the_list_and_its_setting() -> None:
    assert sentence("behavior", bare("behavior", action="steal")) == (
        "action 'steal' is none of click, comment, purchase, rate, share, view; "
        "SALIENCE_EVENTS__ACTIONS lists what is allowed"
    )


def test_a_message_without_a_value_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"^the message has no value; a chat event is a JSON object$"):
        decoder("chat").decode(Line(0, None))


@pytest.mark.parametrize("headers", [{}, BINARY], ids=["bare", "binary"])
@pytest.mark.parametrize("schema", [7, 200, 0xFFFFFFFF])
@pytest.mark.parametrize(
    "payload",
    [json.dumps(bare()).encode(), b"", b"\x02\xc8avro", b'{"specversion": "1.0"}', b'"\\ud800"'],
    ids=["json", "nothing", "avro", "structured", "surrogate"],
)
def test_a_schema_registrys_header_is_recognised(schema: int, payload: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(SchemaHeaderError) as caught:
        read("news", b"\x00" + schema.to_bytes(4, "big") + payload, headers)

    assert str(caught.value) == (
        f"the message begins with a Confluent schema header (magic byte 0, schema id {schema}); send plain JSON, "
        "with a serializer that knows no schema registry"
    )
    assert caught.value.reason == "confluent_schema"


@pytest.mark.parametrize("value", [b"\x00", b"\x00\x00\x00\x07", b"\x01\x00\x00\x00\x07{}", b"{\x00\x00\x00\x00"])
def test_what_has_no_schema_registrys_header_is_only_no_json(value: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^the value is no JSON: ") as caught:
        read("news", value)

    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("form", ["bare", "structured", "binary"])
@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_deep_nesting_is_refused(form: str, depth: int) -> None:
    value, headers = forms("news", {"text": "x", "attributes": {"deep": "@"}})[form]
    raw = json.dumps(value).encode().replace(b'"@"', b"[" * depth + b"]" * depth)

    assert sentence("news", raw, headers).startswith("the JSON is nested too deeply; flatten it")


def test_nesting_that_all_later_stages_bear_is_let_in() -> None:
    raw = json.dumps(bare(attributes={"deep": "@"})).encode().replace(b'"@"', b"[" * 63 + b"]" * 63)

    assert list(read("news", raw).attributes) == ["deep"]


def test_wide_attributes_are_not_deep() -> None:
    attributes = {str(number): [{"a": []}] for number in range(100)}

    assert read("news", bare(attributes=attributes)).attributes == attributes


@pytest.mark.parametrize(
    ("stream", "change"),
    [
        ("behavior", {"action": "x" * 900_000}),
        ("chat", {"role": "x" * 900_000}),
        ("news", {"time": "x" * 900_000}),
    ],
    ids=["action", "role", "time"],
)
def test_a_sentence_stays_short_whatever_it_quotes(stream: str, change: dict[str, str]) -> None:
    assert len(sentence(stream, bare(stream, **change))) < 500
