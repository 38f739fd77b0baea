"""What is frozen: golden files of the messages, and the JSON Schemas made of their types."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from models.scorer import Scorer
from models.stub import StubScorer
from pipeline.decode import Decoder
from pipeline.deliver import _scored_message, letters
from pipeline.in_force import matches_of
from pipeline.notify import messages
from pipeline.react.alerts import matching
from pipeline.rules import MatchRule, RuleSet
from pipeline.settings import EventSettings
from pipeline.work import NewEvent, Outgoing, encode_heads
from schemas import generate
from schemas.events import Dead, Event, Line, Place
from schemas.labels import STREAMS
from schemas.messages import DEAD_LETTER_HEADERS, Envelope, Scored, ScoredSchema, json_schemas
from schemas.scores import Answer, EntityResult, HeadResult, Score, Word

GOLDEN = Path(__file__).with_name("golden")
KEY = b"golden"
FORMS = ("binary", "structured", "bare")
PLACE = Place("news", "cluster-1", "salience.news", "incarnation-1", 3)


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def as_line(message: dict[str, Any]) -> Line:
    value = json.dumps(message["value"], ensure_ascii=False).encode()
    return Line(0, value, headers=[(name, text.encode()) for name, text in message["headers"].items()])


def decode(stream: str, line: Line) -> Event:
    return Decoder(stream, KEY, EventSettings()).decode(line)


def golden_score() -> Score:
    words = [Word("cuts", 0.5), Word("weak", 0.25)]
    return Score(
        {
            "sentiment": HeadResult("negative", 0.9375, "label", words),
            "topic": HeadResult("Company | Product News", 0.4375, "unsure", words[:1]),
        }
    )


def as_text(message: tuple[bytes | None, bytes | None, Any]) -> dict[str, Any]:
    key, value, headers = message
    assert key is not None and value is not None
    return {
        "key": key.decode(),
        "value": value.decode(),
        "headers": [[name, content.decode()] for name, content in headers],
    }


def scored_message() -> dict[str, Any]:
    event = decode("news", as_line(golden("news")["forms"]["bare"]))
    outgoing = Outgoing(
        source=event.source,
        id=event.id,
        time=event.time,
        key=event.key,
        bundle="bundle@0123",
        truncated=False,
        heads=encode_heads(golden_score()),
        offset=7,
    )
    return as_text(_scored_message("news", b"salience/news", outgoing))


def alert_message() -> dict[str, Any]:
    rule = MatchRule.model_validate(
        {
            "name": "bad-news",
            "kind": "match",
            "stream": "news",
            "severity": "high",
            "when": {"heads": {"sentiment": {"label": "negative", "probability": 0.7}}},
        }
    )
    event = decode("news", as_line(golden("news")["forms"]["bare"]))
    new = NewEvent(1, event, golden_score(), 171_714_780, "bundle@0123")
    [row] = matching(matches_of(RuleSet((rule,)), "news"), new)
    [(identity, message, _)] = messages("salience.alerts", row)
    return as_text((message.key, message.value, message.headers)) | {"topic": message.topic, "outbox": identity}


def dead_letter() -> dict[str, Any]:
    record = Line(17, b"{broken", b"wire", headers=[("origin", b"feed-7")])
    dead = Dead(record, "decode", "undecodable", "DecodeError", "the value is no JSON – mend it", 2)
    [message] = letters(PLACE, [dead])
    return as_text((message.key, message.value, message.headers)) | {"topic": message.topic}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stream", STREAMS)
def test_each_accepted_form_decodes_to_the_frozen_event(stream: str, form: str) -> None:
    frozen = golden(stream)

    event = decode(stream, as_line(frozen["forms"][form]))

    expected = dict(frozen["event"])
    del expected["derived_id"]
    assert {name: getattr(event, name) for name in expected if name != "content_hash"} | {
        "content_hash": event.content_hash.hex()
    } == expected
    data = {name: getattr(event.data, name) for name in frozen["forms"]["binary"]["value"]}
    assert data == frozen["forms"]["binary"]["value"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stream", STREAMS)
def test_the_derived_id_is_frozen(stream: str, form: str) -> None:
    frozen = golden(stream)
    message = frozen["forms"][form]
    message["value"].pop("id", None)
    message["headers"].pop("ce_id", None)

    assert decode(stream, as_line(message)).id == frozen["event"]["derived_id"]


@pytest.mark.parametrize("name", ["scored", "alert", "dead_letter"])
def test_a_message_is_written_byte_for_byte_as_it_was_frozen(name: str) -> None:
    written = {"scored": scored_message, "alert": alert_message, "dead_letter": dead_letter}[name]()

    assert written == golden(name)


def test_a_dead_letter_keeps_an_absent_key_and_value_absent() -> None:
    [message] = letters(PLACE, [Dead(Line(1, None), "decode", "undecodable", "DecodeError", "no value")])

    assert message.key is None
    assert message.value is None


def test_a_dead_letter_carries_every_header_that_is_documented_after_the_original_ones() -> None:
    names = [name for name, _ in dead_letter()["headers"]]

    assert names == ["origin", *DEAD_LETTER_HEADERS]


def frozen_definitions() -> dict[str, dict[str, Any]]:
    schemas = {**json_schemas(), "envelope": msgspec.json.schema(Envelope)}
    return {
        f"{name}.{part}": body
        for name, schema in schemas.items()
        for part, body in schema["$defs"].items()
        if "properties" in body
    }


@pytest.mark.parametrize("name", sorted(golden("frozen_fields")))
def test_fields_are_only_added_and_what_is_added_is_optional(name: str) -> None:
    frozen = golden("frozen_fields")[name]

    today = frozen_definitions()[name]

    kept = {field: today["properties"].get(field) for field in frozen["properties"]}
    assert kept == frozen["properties"]
    assert sorted(today["required"]) == frozen["required"]


def test_every_message_is_frozen() -> None:
    assert set(frozen_definitions()) == set(golden("frozen_fields"))


def test_an_added_optional_field_leaves_the_hashes_of_earlier_events_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from schemas import messages

    frozen = golden("news")
    wider = msgspec.defstruct("Wider", [("author", str | None, None)], bases=(messages.NewsData,), kw_only=True)
    monkeypatch.setitem(messages.DATA, "news", wider)  # type: ignore[misc]

    event = decode("news", as_line(frozen["forms"]["binary"]))

    assert isinstance(event.data, wider)
    assert event.content_hash.hex() == frozen["event"]["content_hash"]


def test_the_scored_message_and_its_schema_have_the_same_fields() -> None:
    assert Scored.__struct_fields__ == ScoredSchema.__struct_fields__


def test_committed_schemas_are_what_the_types_give() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in generate.FOLDER.glob("*.json")}

    assert committed == generate.files(), "run: python -m schemas.generate"


def test_generating_replaces_old_schemas_and_removes_those_without_a_message(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    (tmp_path / "news.json").write_text("old")

    generate.write(tmp_path)

    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == generate.files()


@pytest.mark.parametrize("name", sorted(json_schemas()))
def test_a_schema_is_valid_json_schema(name: str) -> None:
    schema = json_schemas()[name]

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def problems(name: str, message: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(json_schemas()[name]).iter_errors(message)]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_frozen_bare_event_fits_its_schema(stream: str) -> None:
    assert problems(stream, golden(stream)["forms"]["bare"]["value"]) == []


@pytest.mark.parametrize("name", ["scored", "alert"])
def test_a_frozen_message_fits_its_schema(name: str) -> None:
    assert problems(name, json.loads(golden(name)["value"])) == []


def test_frozen_dead_letter_headers_fit_their_schema() -> None:
    headers = {name.removeprefix("salience-"): text for name, text in golden("dead_letter")["headers"]}
    numbers = {name: int(headers[name]) for name in ("version", "partition", "offset", "attempts")}
    del headers["origin"]

    assert problems("dead_letter", headers | numbers) == []


@pytest.mark.parametrize("stream", STREAMS)
def test_a_schema_asks_for_what_must_be_there(stream: str) -> None:
    event = golden(stream)["forms"]["bare"]["value"]
    required = json_schemas()[stream]["$defs"][stream.capitalize()]["required"]

    for field in required:
        found = problems(stream, {name: value for name, value in event.items() if name != field})
        assert found == [f"{field!r} is a required property"]
    assert {"source", "time"} <= set(required)


def test_entities_and_the_share_that_was_cut_off_fit_the_scored_schema() -> None:
    said = {"entity_sentiment": Answer("positive", 0.75, "unsure", [Word("rises", 0.5)])}
    head = HeadResult("company", 0.75, "label", [], [EntityResult("Acme", 0, 4, "company", 0.75, said)])
    heads = json.loads(encode_heads(Score({"entity": head})))
    message = json.loads(golden("scored")["value"]) | {"heads": heads, "truncated_share": 0.5}

    assert problems("scored", message) == []
    heads["entity"]["entities"][0]["start"] = "here"
    assert problems("scored", message) != []


def test_the_share_that_was_cut_off_is_told_where_it_is_known() -> None:
    outgoing = Outgoing("wire", "n1", 0, "wire", "b@1", True, b"{}", 7, truncated_share=0.25)
    known = json.loads(_scored_message("news", b"salience/news", outgoing)[1])
    unknown = json.loads(
        _scored_message("news", b"salience/news", msgspec.structs.replace(outgoing, truncated_share=None))[1]
    )

    assert known["truncated_share"] == 0.25
    assert "truncated_share" not in unknown


def test_what_the_stub_says_fits_the_scored_schema() -> None:
    stub: Scorer = StubScorer()
    [score] = stub.score(["shares fall"], "news")

    heads = json.loads(encode_heads(score))

    assert problems("scored", json.loads(golden("scored")["value"]) | {"heads": heads}) == []
