"""A rule matches what its author means, and raises each alert once."""

from typing import Any

import pytest
from helpers import behavior, chat, news
from rulebook import rule

from pipeline.decode import Decoder
from pipeline.in_force import InForce, matches_of
from pipeline.react.alerts import MatchAlerts, matching
from pipeline.rules import MatchRule, RuleSet
from pipeline.settings import EventSettings
from pipeline.work import AlertRow, Message, NewEvent
from schemas.errors import ReactionError
from schemas.events import Event, Line
from schemas.scores import HeadResult, Score, Word


class FakeTransaction:
    """Takes alerts the way the database does: each identity once."""

    def __init__(self, *rules: MatchRule, stream: str = "news") -> None:
        self.rules = InForce("v", matches_of(RuleSet(rules), stream))
        self.alerts: list[AlertRow] = []
        self.sent: list[tuple[str, Message, int | None]] = []

    async def add_alerts(self, alerts: list[AlertRow]) -> list[tuple[int, AlertRow]]:
        known = {(each.rule, each.group, each.episode) for each in self.alerts}
        new = [each for each in alerts if (each.rule, each.group, each.episode) not in known]
        self.alerts += new
        return list(enumerate(new, 1))

    async def send(self, messages: list[tuple[str, Message, int | None]]) -> None:
        self.sent += messages


def event(line: Line, stream: str = "news") -> Event:
    return Decoder(stream, b"k", EventSettings()).decode(line)


def score(label: str = "negative", probability: float = 0.75, decision: Any = "label") -> Score:
    return Score({"sentiment": HeadResult(label, probability, decision, [Word("fall", 0.5)])})


def fires(rule: MatchRule, line: Line, given: Score | None = None) -> bool:
    new = NewEvent(1, event(line, rule.stream), given, 7, "bundle@1")
    return bool(matching(matches_of(RuleSet((rule,)), rule.stream), new))


@pytest.mark.parametrize(
    ("label", "probability", "decision", "matches"),
    [
        ("negative", 0.75, "label", True),
        ("negative", 0.7, "label", True),
        ("negative", 0.69, "label", False),
        ("positive", 0.99, "label", False),
        ("neutral", 0.8, "label", True),
        ("negative", 0.99, "unsure", False),
        ("negative", 0.99, "none", False),
        ("negative", 0.99, "unsupported", False),
    ],
)
def test_a_head_must_have_decided_for_one_of_the_labels_with_the_probability(
    label: str, probability: float, decision: str, matches: bool
) -> None:
    wanted = rule(heads={"sentiment": {"label": ["negative", "neutral"], "probability": 0.7}})

    assert fires(wanted, news(0), score(label, probability, decision)) is matches


def test_a_head_without_a_probability_matches_by_its_label() -> None:
    assert fires(rule(heads={"sentiment": {"label": "negative"}}), news(0), score(probability=0.01))


def test_a_head_that_the_event_lacks_does_not_match() -> None:
    wanted = rule(heads={"topic": {"label": "Dividend"}})

    assert not fires(wanted, news(0), score())
    assert not fires(wanted, news(0), None)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("Corvane falls", True),
        ("corvane falls", True),
        ("bad for CORVANE.", True),
        ("(Corvane)", True),
        ("Corvane's debt", True),
        ("Corvanes fall", False),
        ("anti_Corvane", False),
        ("XCorvane", False),
        ("profit WARNING today", True),
        ("profit warnings", False),
        ("up in C++ today", True),
        ("nothing", False),
        ("die ÜBERNAHME kommt", True),
        ("Übernahmeangebot", False),
    ],
)
def test_words_match_whole_and_whatever_their_case(text: str, matches: bool) -> None:
    assert fires(rule(words=["Corvane", "profit warning", "C++", "übernahme"]), news(0, text)) is matches


def test_words_are_looked_for_in_the_title_too() -> None:
    assert fires(rule(words="corvane"), news(0, "shares fall", title="Corvane warns"))


@pytest.mark.parametrize(
    ("source", "matches"), [("wire", True), ("blog", True), ("wire2", False), ("Wire", False)]
)
def test_a_source_matches_exactly(source: str, matches: bool) -> None:
    assert fires(rule(source=["wire", "blog"]), news(0, source=source)) is matches


@pytest.mark.parametrize(
    ("attributes", "matches"),
    [
        ({"region": "EU"}, True),
        ({"region": "US"}, True),
        ({"region": "JP"}, False),
        ({"region": ["JP", "US"]}, True),
        ({"region": ["JP"]}, False),
        ({"region": {"EU": 1}}, False),
        ({"region": None}, False),
        ({"other": "EU"}, False),
        (None, False),
    ],
)
def test_an_attribute_matches_by_its_value_or_by_one_of_its_list(attributes: Any, matches: bool) -> None:
    assert fires(rule(attributes={"region": ["EU", "US"]}), news(0, attributes=attributes)) is matches


def test_attributes_may_be_numbers_and_truth_values() -> None:
    wanted = rule(attributes={"rank": 3, "breaking": True})

    assert fires(wanted, news(0, attributes={"rank": 3, "breaking": True}))
    assert not fires(wanted, news(0, attributes={"rank": "3", "breaking": True}))


def test_all_kinds_of_conditions_must_hold_together() -> None:
    wanted = rule(words="corvane", source="wire", heads={"sentiment": {"label": "negative"}})

    assert fires(wanted, news(0, "Corvane falls"), score())
    assert not fires(wanted, news(0, "Other falls"), score())
    assert not fires(wanted, news(0, "Corvane falls", source="blog"), score())
    assert not fires(wanted, news(0, "Corvane rises"), score("positive"))


def test_rules_of_every_stream_match_its_events() -> None:
    assert fires(rule(stream="chat", words="card"), chat(0))
    assert fires(rule(stream="behavior", words="i1"), behavior(0))


async def test_an_alert_is_written_and_sent_once_however_often_it_is_found() -> None:
    transaction: Any = FakeTransaction(rule(words="shares"))
    reaction = MatchAlerts("t.alerts")
    new = [NewEvent(4, event(news(0)), score(), 7, "bundle@1")]

    await reaction.react(transaction, new)
    await reaction.react(transaction, new)

    [alert] = transaction.alerts
    [(key, message, stored)] = transaction.sent
    assert (alert.rule, alert.group, alert.episode, alert.state) == ("r", "", "news/wire/n0", "fired")
    assert (alert.event, alert.visible_tick, alert.bundle) == (4, 7, "bundle@1")
    assert alert.evidence["heads"]["sentiment"]["words"] == [["fall", 0.5]]
    assert (key, message.topic, stored) == ("r//news/wire/n0:fired:topic:t.alerts", "t.alerts", 4)
    assert (message.key, message.version) == (b"r//news/wire/n0", 1)


async def test_each_rule_that_matches_raises_its_own_alert() -> None:
    rules = (rule("a", words="shares"), rule("b", words="rise"), rule("c", words="fall"))
    transaction: Any = FakeTransaction(*rules)

    await MatchAlerts("t.alerts").react(transaction, [NewEvent(1, event(news(0)), None, 1, "b")])

    assert [alert.rule for alert in transaction.alerts] == ["a", "b"]


async def test_rules_of_other_streams_do_not_react() -> None:
    transaction: Any = FakeTransaction(rule(words="shares"), stream="chat")
    reaction = MatchAlerts("t.alerts")

    await reaction.react(transaction, [NewEvent(1, event(chat(0, "shares"), "chat"), None, 1, "b")])

    assert transaction.alerts == []


def test_an_alert_quotes_the_beginning_of_a_long_text() -> None:
    matches = matches_of(RuleSet((rule(words="shares"),)), "news")

    [alert] = matching(matches, NewEvent(1, event(news(0, "shares " * 1000)), None, 1, "b"))

    assert alert.evidence["text"] == ("shares " * 1000)[:500]


def test_a_failing_rule_names_the_event() -> None:
    matches = matches_of(RuleSet((rule(words="shares"),)), "news")
    broken: Any = NewEvent(1, event(news(0)), None, 1, "b")
    broken.score = object()

    with pytest.raises(ReactionError, match=r"^the rules fail on news/wire/n0: AttributeError"):
        matching(matches, broken)
