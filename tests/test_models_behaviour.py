"""Behavioural tests fail what does not behave, and say how."""

from collections.abc import Callable, Sequence

from commandline import answer

from models.behaviour import Result, as_markdown, behaviour
from models.behaviour_texts import COMPANIES, COMPARISONS, INTENTS
from models.stub import StubScorer
from schemas.labels import SENTIMENTS
from schemas.scores import Answer, EntityResult, HeadResult, Score

INTENT_LABELS = tuple(dict.fromkeys(label for label, *_ in INTENTS))
GOOD = ("raises", "rise", "beats", "upgrade", "jump", "wins", "increases", "soars")
BAD = ("cuts", "fall", "misses", "downgrade", "slump", "loses", "suspends", "plunges")


class RuleScorer:
    """Answers by a rule.

    Args:
        sentiment: of a text.
        entities: company to sentiment in a text; None for a scorer without entities.
        intent: label and decision of a text; None for a scorer without intents.
    """

    bundle = "rules@000000000000"

    def __init__(
        self,
        sentiment: Callable[[str], str],
        entities: Callable[[str], dict[str, str]] | None = None,
        intent: Callable[[str], HeadResult] | None = None,
    ) -> None:
        self._sentiment = sentiment
        self._entities = entities
        self._intent = intent

    def heads(self, stream: str) -> tuple[str, ...]:
        return tuple(self.labels(stream))

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        if stream == "chat":
            return {"intent": INTENT_LABELS} if self._intent else {}
        return {"sentiment": SENTIMENTS}

    def score(self, texts: Sequence[str], stream: str, languages: object = None) -> list[Score]:
        return [Score(self._heads(text, stream)) for text in texts]

    def warm_up(self) -> None:
        pass

    def _heads(self, text: str, stream: str) -> dict[str, HeadResult]:
        if stream == "chat":
            return {"intent": self._intent(text)} if self._intent else {}
        found = {"sentiment": HeadResult(self._sentiment(text), 0.75)}
        if self._entities:
            listed = [
                EntityResult(name, 0, 1, "company", 0.5, {"entity_sentiment": Answer(label, 0.75)})
                for name, label in self._entities(text).items()
            ]
            found["entity"] = HeadResult("company", 0.5, "label", [], listed)
        return found


def verbs(text: str) -> str:
    words = text.split()
    if any(word in GOOD for word in words):
        return "positive"
    return "negative" if any(word in BAD for word in words) else "neutral"


def results(scorer: RuleScorer | StubScorer) -> dict[str, Result]:
    return {each.name: each for each in behaviour(scorer)}


def test_a_scorer_that_knows_the_verbs_passes_direction_and_invariance() -> None:
    found = results(RuleScorer(verbs))

    for name, each in found.items():
        if each.kind != "minimum functionality" or "plain" in name or "alone" in name:
            assert each.passed == each.n > 0, name
            assert each.failures == ()


def test_a_scorer_that_overlooks_negation_fails_negation() -> None:
    found = results(RuleScorer(verbs))

    assert found["good news that is denied is not positive"].passed == 40
    assert found["less good than hoped is not positive"].passed == found["less good than hoped is not positive"].n
    wins = RuleScorer(lambda text: "positive" if "rose" in text or "won" in text else "negative")
    denied = results(wins)["good news that is denied is not positive"]
    assert denied.passed == denied.n - len(COMPANIES)
    assert denied.failures[0] == "'Apple has not won the contract, its chief says': positive (0.75)"
    assert len(denied.failures) == 2


def test_one_answer_for_everything_never_changes_and_never_turns() -> None:
    found = results(RuleScorer(lambda _text: "neutral"))

    assert found["one verb turns the label"].passed == 0
    assert all(each.passed == each.n for each in found.values() if each.kind == "invariance")
    assert found["an empty text claims nothing"].passed == found["an empty text claims nothing"].n


def test_a_claim_about_nothing_fails() -> None:
    found = results(RuleScorer(lambda _text: "positive"))

    assert found["a link alone claims nothing"].passed == 0
    assert found["tickers alone claim nothing"].passed == 0


def test_a_scorer_that_looks_at_names_fails_when_the_name_changes() -> None:
    found = results(RuleScorer(lambda text: "negative" if "Boeing" in text else verbs(text)))

    same = found["the company's name does not matter"]
    assert 0 < same.passed < same.n


def test_each_of_two_companies_must_have_its_own_sentiment() -> None:
    name = "of two companies each has its own sentiment"
    goods = [template.format(a=one, b=two) for template in COMPARISONS for one, two in neighbours()]
    told = dict(zip(goods, [pair for _ in COMPARISONS for pair in neighbours()], strict=True))

    def right(text: str) -> dict[str, str]:
        good, bad = told.get(text, ("", ""))
        return {good: "positive", bad: "negative"}

    assert results(RuleScorer(verbs, right))[name].passed == len(goods)
    one_for_all = results(RuleScorer(verbs, lambda text: dict.fromkeys(right(text), "neutral")))[name]
    assert one_for_all.passed == 0
    assert "Apple neutral (0.75), Nokia neutral (0.75)" in one_for_all.failures[0]


def test_a_scorer_that_finds_no_company_fails_and_one_without_entities_is_not_asked() -> None:
    name = "of two companies each has its own sentiment"

    blind = results(RuleScorer(verbs, lambda _text: {}))[name]
    assert blind.passed == 0
    assert "no entity found" in blind.failures[0]
    assert name not in results(RuleScorer(verbs))


def neighbours() -> list[tuple[str, str]]:
    return list(zip(COMPANIES, (*COMPANIES[1:], COMPANIES[0]), strict=True))


def test_questions_are_told_from_what_is_from_elsewhere() -> None:
    asked = {text: label for label, *texts in INTENTS for text in texts}

    def intent(text: str) -> HeadResult:
        return HeadResult(asked[text], 0.75) if text in asked else HeadResult(INTENT_LABELS[0], 0.5, "none")

    found = results(RuleScorer(verbs, intent=intent))
    chat = [each for name, each in found.items() if "question" in name or "typing" in name]
    assert len(chat) == 4
    assert all(each.passed == each.n for each in chat)
    sure = results(RuleScorer(verbs, intent=lambda _text: HeadResult(INTENT_LABELS[0], 0.5)))
    assert sure["a question from elsewhere is none of the intents"].passed == 0


def test_the_table_survives_what_stands_in_a_text() -> None:
    table = as_markdown([Result("a name", "invariance", 3, 2, ("'a|b\nc': neutral",))])

    assert "| a name | invariance | 2 | 3 |" in table
    assert "- a name: 'a\\|b c': neutral" in table


def test_the_command_prints_every_result() -> None:
    found = answer("model", "behaviour", "--bundle", "stub")

    assert found["bundle"] == StubScorer().bundle
    assert [each["name"] for each in found["results"]] == list(results(StubScorer()))
