"""What a gazetteer finds is stored with the event, beside what it brought itself, and rules can ask for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import behavior, chat, news, only, opened, place, rows, take
from pydantic import ValidationError
from rulebook import rule

from pipeline.decode import Decoder
from pipeline.doctor import examine
from pipeline.gazetteer.load import Company
from pipeline.gazetteer.match import Gazetteer
from pipeline.gazetteer.mentions import Mentions
from pipeline.in_force import matches_of
from pipeline.react.alerts import matching
from pipeline.rules import RuleSet
from pipeline.settings import EventSettings, load_settings
from pipeline.store.forget import forget
from pipeline.topics import Topics
from pipeline.work import NewEvent
from schemas.errors import ConfigError
from schemas.events import Event, Line
from schemas.tables import alerts, events

NOKIA = {"name": "Nokia Oyj", "ticker": "NOK", "start": 10, "end": 15, "source": "gazetteer"}
TEXT = "shares of Nokia rise"
FILE = "name,ticker,aliases\nNokia Oyj,NOK,\nCorvane,CRV,\n"


def decoded(line: Line, stream: str = "news") -> Event:
    return Decoder(stream, b"k", EventSettings()).decode(line)


def entities(text: str = TEXT, **fields: Any) -> Any:
    event = decoded(news(0, text, **fields))
    Mentions(Gazetteer([Company("Nokia Oyj", "NOK"), Company("Corvane", "CRV")])).add([event])
    return event.entities


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "companies.csv"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize("own", [["acme"], [{"name": "Acme", "x": 1}], ["Nokia"]])
def test_what_the_event_brought_comes_first(own: Any) -> None:
    assert entities(entities=own) == [*own, NOKIA]


@pytest.mark.parametrize("own", ["NOK", {"ticker": "NOK"}, {"symbol": "nok", "name": "Nokia"}])
def test_a_ticker_that_the_event_brought_is_not_repeated(own: Any) -> None:
    assert entities(entities=[own]) == [own]


def test_a_company_is_named_once_by_its_first_mention() -> None:
    assert entities(f"{TEXT}, says Nokia") == [NOKIA]


def test_offsets_are_those_of_title_and_text_together() -> None:
    [found] = entities("it rises", title="Day of Nokia")

    assert (found["start"], found["end"]) == (7, 12)


def test_without_companies_there_is_nothing() -> None:
    assert entities("nothing here") is None
    assert entities("nothing here", entities=[]) == []


def test_an_event_is_given_fifty_companies_at_most() -> None:
    many = [Company(f"Corvane{number}", f"C{number}") for number in range(60)]
    event = decoded(news(0, " ".join(each.name for each in many)))

    Mentions(Gazetteer(many)).add([event])

    assert len(event.entities or ()) == 50


def test_adding_again_changes_nothing() -> None:
    event = decoded(news(0, TEXT, entities=["own"]))
    mentions = Mentions(Gazetteer([Company("Nokia Oyj", "NOK")]))

    mentions.add([event])
    mentions.add([event])

    assert event.entities == ["own", NOKIA]


def test_the_content_hash_is_that_of_what_came_in() -> None:
    event = decoded(news(0, TEXT))
    before = event.content_hash

    Mentions(Gazetteer([Company("Nokia Oyj", "NOK")])).add([event])

    assert event.content_hash == before == decoded(news(0, TEXT)).content_hash
    assert event.data == decoded(news(0, TEXT)).data


async def test_news_and_chat_are_stored_with_their_companies(database_url: str, file: str) -> None:
    async with opened(database_url, entities={"gazetteer": file}) as pipeline:
        await take(pipeline, [news(0, TEXT)])
        await take(pipeline, [chat(0, TEXT)], where=place("chat"))
        await take(pipeline, [behavior(0, text=TEXT)], where=place("behavior"))
        stored = [_json(row["entities"]) for row in await rows(pipeline.database, events)]

    assert stored == [[NOKIA], [NOKIA], None]


async def test_an_event_met_again_with_another_gazetteer_keeps_what_is_stored(
    database_url: str, file: str
) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, TEXT)])
    async with opened(database_url, entities={"gazetteer": file}) as pipeline:
        applied = await take(pipeline, [news(0, TEXT)])
        row = await only(pipeline.database, events)

    assert (applied.new, applied.repeated, applied.dead) == (0, 1, [])
    assert row["entities"] is None


async def test_of_a_forgotten_customer_no_company_comes_in(database_url: str, file: str) -> None:
    async with opened(database_url, entities={"gazetteer": file}) as pipeline:
        later = pipeline._now() + 10_000_000
        await forget(pipeline.database, "ann", later, Topics("t"), 0)
        await take(pipeline, [chat(0, TEXT, customer="ann")], where=place("chat"))
        row = await only(pipeline.database, events)

    assert (row["text"], row["entities"]) == (None, None)


async def test_a_rule_on_a_company_raises_its_alert(database_url: str, file: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: [{name: n, kind: match, stream: news, when: {entities: NOK}}]")
    async with opened(database_url, entities={"gazetteer": file}, rules={"file": str(path)}) as pipeline:
        await take(pipeline, [news(0, TEXT), news(1, "nothing")])
        alert = await only(pipeline.database, alerts)

    assert alert["episode"] == "news/wire/n0"


@pytest.mark.parametrize(
    ("entity", "matches"),
    [
        ("NOK", True),
        ("nok", True),
        ("Nokia", True),
        ("Nokia Oyj", True),
        ({"ticker": "NOK"}, True),
        ({"symbol": "NOK"}, True),
        ({"name": "nokia"}, True),
        (NOKIA, True),
        ("Nokian", False),
        ({"name": "Acme", "ticker": "ACM"}, False),
        ({"ticker": 3}, False),
    ],
)
def test_an_entity_matches_by_ticker_or_name(entity: Any, matches: bool) -> None:
    assert _fires(rule(entities=["X", "NOK", "Nokia Corp"]), entity) is matches


def test_one_entity_need_not_be_a_list() -> None:
    assert rule(entities="NOK") == rule(entities=["NOK"])


def _fires(wanted: Any, entity: Any) -> bool:
    event = decoded(news(0, "text", entities=[entity]))
    return bool(matching(matches_of(RuleSet((wanted,)), "news"), NewEvent(1, event, None, 1, "b")))


def test_an_event_without_entities_does_not_match() -> None:
    event = NewEvent(1, decoded(news(0, "Nokia")), None, 1, "b")

    assert matching(matches_of(RuleSet((rule(entities="Nokia"),)), "news"), event) == []


def test_rules_without_entities_keep_the_definition_they_had() -> None:
    assert "entities" not in rule(words="a").model_dump(mode="json")["when"]
    assert rule(words="a", entities="NOK").definition != rule(words="a").definition


@pytest.mark.parametrize(
    ("stream", "value", "sentence"),
    [("behavior", "NOK", "behavior events do not have"), ("news", " ", "holds an empty entity")],
)
def test_entities_that_can_never_match_are_refused(stream: str, value: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        rule(stream=stream, entities=value)


async def test_a_gazetteer_that_cannot_be_read_stops_the_start(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("name,ticker\n,A\n")

    with pytest.raises(ConfigError, match="line 2: the name is empty"):
        async with opened(database_url, entities={"gazetteer": str(path)}):
            pass


def test_doctor_counts_the_companies(file: str) -> None:
    settings = load_settings(entities={"gazetteer": file}, model={"bundle": "stub"})

    [finding] = [each for each in examine(settings) if each.part == "gazetteer"]

    assert (finding.ok, finding.message) == (True, f"2 companies in {file}")


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
