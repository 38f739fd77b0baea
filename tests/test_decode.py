"""Bytes become an event in each accepted form, and the same content has the same id."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from decoding import DATA, MICROSECONDS, TIME, bare, decoder, facts, forms, read, sentence

from schemas.events import Line
from schemas.labels import STREAMS

# The three forms


@pytest.mark.parametrize("stream", STREAMS)
def test_the_three_forms_give_the_same_event(stream: str) -> None:
    found = [facts(read(stream, *form)) for form in forms(stream, DATA[stream], id="e1").values()]

    assert found[0] == found[1] == found[2]
    assert found[0][1:4] == ("wire", "e1", MICROSECONDS)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_derived_id_is_the_same_in_all_three_forms(stream: str) -> None:
    found = {read(stream, *form).id for form in forms(stream, DATA[stream]).values()}

    assert len(found) == 1


def sdk_event(stream: str) -> CloudEvent:
    attributes = {
        "id": "e1",
        "source": "wire",
        "type": f"salience.{stream}",
        "specversion": "1.0",
        "time": datetime(2024, 5, 31, 9, 30, tzinfo=UTC),
        "datacontenttype": "application/json",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    return CloudEvent(attributes, DATA[stream])


@pytest.mark.parametrize("emit", [to_binary_event, to_structured_event])
@pytest.mark.parametrize("stream", STREAMS)
def test_what_the_cloudevents_sdk_emits_is_the_bare_event(stream: str, emit: Any) -> None:
    message: KafkaMessage = emit(sdk_event(stream))
    line = Line(0, message.value, headers=list(message.headers.items()))

    event = decoder(stream).decode(line)

    assert facts(event) == facts(read(stream, bare(stream, id="e1")))
    assert event.traceparent == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_binary_data_of_a_structured_cloudevent_gets_a_sentence() -> None:
    event = CloudEvent({"id": "1", "source": "wire", "type": "t", "specversion": "1.0"}, b"\x00\x01")
    value = to_structured_event(event).value

    assert sentence("news", value) == "the CloudEvent has no data; put the event's fields there, as JSON"


def test_the_word_specversion_in_a_text_makes_no_cloudevent() -> None:
    event = read("news", bare(text='what does "specversion" mean?', attributes={"specversion": "1.0"}))

    assert event.text == 'Übernahme. what does "specversion" mean?'


def test_a_bare_event_takes_its_trace_from_the_header() -> None:
    assert read("news", bare(), {"traceparent": "00-ab-cd-01"}).traceparent == "00-ab-cd-01"


def test_headers_without_a_value_count_as_missing() -> None:
    headers: Any = [
        ("ce_specversion", b"1.0"),
        ("ce_source", b"wire"),
        ("ce_time", TIME.encode()),
        ("ce_id", None),
    ]
    event = decoder("news").decode(Line(0, b'{"text": "x"}', headers=headers))

    assert event.id == event.content_hash.hex()


# Derived ids


def test_the_same_content_has_the_same_derived_id_whatever_the_order_of_its_fields() -> None:
    turned = dict(reversed(bare(attributes={"b": 1, "a": 2}).items()))

    assert read("news", turned).id == read("news", bare(attributes={"a": 2, "b": 1})).id


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"},
        {"title": None},
        {"source": "other"},
        {"time": "2024-05-31T09:30:00.000001Z"},
        {"attributes": {"rank": 2}},
        {"language": "en"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_content_has_another_derived_id(change: dict[str, Any]) -> None:
    assert read("news", bare(**change)).id != read("news", bare()).id


def test_the_same_moment_in_another_zone_is_the_same_content() -> None:
    assert read("news", bare(time="2024-05-31T11:30:00+02:00")).id == read("news", bare()).id


def test_the_same_content_on_another_stream_has_another_hash() -> None:
    both = DATA["chat"] | {"user": "ann", "item": "i1", "action": "view"}
    chat, news = read("chat", bare(**both)), read("news", bare(**both))

    assert chat.content_hash != news.content_hash


def test_the_key_changes_derived_id_and_content_hash() -> None:
    one, other = read("news", bare(), key=b"one"), read("news", bare(), key=b"other")

    assert one.id != other.id
    assert one.content_hash != other.content_hash


def test_a_given_id_is_kept_and_no_part_of_the_content() -> None:
    event = read("news", bare(id="n-1"))

    assert event.id == "n-1"
    assert event.content_hash == read("news", bare(id="n-2")).content_hash


# What is replaced, and what else is let in


@pytest.mark.parametrize(
    "unfit", ["\\u0000", "\\ud83d", "\\uDCFF"], ids=["NUL", "high surrogate", "low surrogate"]
)
def test_a_nul_or_lone_surrogate_is_replaced_wherever_it_stands(unfit: str) -> None:
    value = (
        f'{{"source": "w{unfit}", "time": "{TIME}", "id": "i{unfit}", "text": "a{unfit}b",'
        f'"attributes": {{"k{unfit}": ["v{unfit}"]}}}}'
    ).encode()

    event = read("news", value)

    assert (event.source, event.id, event.text) == ("w\ufffd", "i\ufffd", "a\ufffdb")
    assert event.attributes == {"k\ufffd": ["v\ufffd"]}


@pytest.mark.parametrize("form", ["structured", "binary"])
def test_a_nul_and_a_lone_surrogate_are_replaced_in_cloudevents(form: str) -> None:
    value, headers = forms("news", {"text": "a\x00b\ud800"}, id="1\x00", source="w\x00")[form]

    event = read("news", value, headers)

    assert (event.source, event.id, event.text) == ("w\ufffd", "1\ufffd", "a\ufffdb\ufffd")


def test_a_nul_in_the_trace_header_is_replaced() -> None:
    assert read("news", bare(), {"traceparent": "00\x00"}).traceparent == "00\ufffd"


def test_a_surrogate_pair_is_one_character() -> None:
    assert read("news", bare(title=None, text="\U0001f4c9")).text == "\U0001f4c9"


@pytest.mark.parametrize("form", ["bare", "structured", "binary"])
@pytest.mark.parametrize("text", ["shares fall", "a NUL: \x00"])
def test_a_byte_order_mark_is_passed_over(text: str, form: str) -> None:
    value, headers = forms("news", {"text": text}, id="1")[form]
    marked = b"\xef\xbb\xbf" + json.dumps(value).encode()

    assert facts(read("news", marked, headers)) == facts(read("news", value, headers))


def test_unknown_fields_are_passed_over() -> None:
    assert facts(read("news", bare(invented=[1, {"a": None}]))) == facts(read("news", bare()))


@pytest.mark.parametrize("time", ["1970-01-01T00:00:00Z", "2200-12-31T23:59:59.999999Z"])
def test_the_first_and_last_moment_are_let_in(time: str) -> None:
    moment = datetime.fromisoformat(time)

    assert read("news", bare(time=time)).time == round(moment.timestamp()) * 1_000_000 - (moment.microsecond > 0)


def test_a_time_without_an_offset_is_utc() -> None:
    assert read("news", bare(time="2024-05-31T09:30:00")).time == MICROSECONDS


@pytest.mark.parametrize("kind", ["assigned", "resolved"])
def test_a_chat_event_that_is_no_message_may_have_an_empty_text(kind: str) -> None:
    assert read("chat", bare("chat", kind=kind, text="")).text == ""


def test_a_news_item_may_consist_of_its_title() -> None:
    assert read("news", bare(title="Corvane warns", text="")).text == "Corvane warns"


def test_a_setting_adds_actions() -> None:
    event = read("behavior", bare("behavior", action="wish"), actions="view, wish")

    assert event.data.action == "wish"
