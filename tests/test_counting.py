"""What an event counts for: the groups of a rule, and the label that a share looks at."""

from collections.abc import Sequence
from typing import Any

import pytest
from day import rule

from pipeline.conditions import Facts
from pipeline.counting import Counted
from pipeline.rules import CountRule, RuleSet
from schemas.scores import Answer, EntityResult, HeadResult

TICK = 10_000_000


def counted(kind: str = "volume", **fields: Any) -> Counted:
    [made] = RuleSet.of_content([rule("r", kind, **{"when": None, **fields})]).rules
    assert isinstance(made, CountRule)
    return Counted(1, made, TICK)


def facts(entities: Sequence[Any] = (), **given: Any) -> Facts:
    known: dict[str, Any] = {"source": "wire", "text": "a text", "attributes": {}, "heads": {}}
    return Facts(entities=entities, **(known | given))


def company(text: str, label: str) -> EntityResult:
    return EntityResult(text, 0, len(text), "company", 0.9, {"entity_sentiment": Answer(label, 0.9)})


def found(*entities: EntityResult) -> dict[str, HeadResult]:
    return {"entity": HeadResult("company", 0.9, entities=list(entities))}


def test_a_rule_without_groups_has_one() -> None:
    assert counted().sightings(facts()) == [("", "")]


def test_what_does_not_meet_the_conditions_counts_for_nothing() -> None:
    assert counted(when={"source": "another"}).sightings(facts()) == []


def test_a_source_is_a_group() -> None:
    assert counted(group_by="source").sightings(facts()) == [("wire", "")]


@pytest.mark.parametrize(("decision", "groups"), [("label", [("IPO", "")]), ("unsure", []), ("none", [])])
def test_a_topic_is_a_group_where_the_model_is_sure(decision: Any, groups: list[Any]) -> None:
    heads = {"topic": HeadResult("IPO", 0.9, decision)}

    assert counted(group_by="topic").sightings(facts(heads=heads)) == groups


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ("x", ["x"]),
        (3, ["3"]),
        (True, ["true"]),
        (["a", "b", "a"], ["a", "b"]),
        ({"no": 1}, []),
        ("", []),
        (None, []),
    ],
)
def test_an_attribute_makes_a_group_of_each_of_its_values(value: Any, groups: list[str]) -> None:
    seen = counted(group_by="place").sightings(facts(attributes={"place": value}))

    assert [group for group, _ in seen] == groups


@pytest.mark.parametrize(
    ("entity", "group"),
    [
        ("nok", "NOK"),
        ({"name": "Nokia Corp", "ticker": "nok"}, "NOK"),
        ({"name": "Nokia Corp", "symbol": "NOK"}, "NOK"),
        ({"name": "Nokia Corp."}, "NOKIA"),
    ],
)
def test_an_entity_is_named_by_its_ticker_or_its_name(entity: Any, group: str) -> None:
    assert counted(group_by="entity").sightings(facts([entity])) == [(group, "")]


def test_a_company_that_only_the_model_found_is_a_group_by_its_words() -> None:
    assert counted(group_by="entity").sightings(facts(heads=found(company("Corvane Inc", "neutral")))) == [
        ("CORVANE", "")
    ]


def test_a_company_is_counted_once_whoever_found_it() -> None:
    seen = counted(group_by="entity").sightings(
        facts([{"name": "Apple Inc.", "ticker": "AAPL"}], heads=found(company("Apple", "positive")))
    )

    assert seen == [("AAPL", "")]


def test_each_company_counts_with_what_is_said_of_it() -> None:
    share = counted("share", head="entity_sentiment", label="negative", group_by="entity")
    entities = [{"name": "Apple Inc.", "ticker": "AAPL"}, {"name": "Nokia Oyj", "ticker": "NOK"}]
    heads = found(company("Apple", "positive"), company("Nokia", "negative"))

    assert share.sightings(facts(entities, heads=heads)) == [("AAPL", "positive"), ("NOK", "negative")]


@pytest.mark.parametrize(("decision", "counts"), [("label", 1), ("unsure", 1), ("none", 0), ("unsupported", 0)])
def test_a_share_counts_the_likeliest_label_of_texts_that_the_model_read(decision: Any, counts: int) -> None:
    share = counted("share", head="sentiment", label="negative")
    heads = {"sentiment": HeadResult("negative", 0.5, decision)}

    assert len(share.sightings(facts(heads=heads))) == counts


def test_a_condition_on_what_is_said_of_a_company_is_met_by_any_of_the_text() -> None:
    when = {"heads": {"entity_sentiment": {"label": "negative", "probability": 0.8}}}
    bad = found(company("Apple", "positive"), company("Nokia", "negative"))

    assert counted(when=when).sightings(facts(heads=bad)) == [("", "")]
    assert counted(when=when).sightings(facts(heads=found(company("Apple", "positive")))) == []
