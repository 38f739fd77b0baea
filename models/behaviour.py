"""Behavioural tests of a bundle: small sets of sentences for what it must be able to do; needs no torch.

After CheckList (Ribeiro et al. 2020): minimum functionality (the answer is known), invariance (a change that must
not matter), direction (a change that must). What counts is the label that a head names, sure or not, unless a test
says otherwise: where nothing may be claimed, an answer that is not acted upon will do, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import UNSET

from models import behaviour_texts as said
from models.scorer import Scorer
from schemas.labels import SENTIMENTS
from schemas.scores import Answer, EntityResult, Score

Kind = Literal["minimum functionality", "invariance", "directional"]

NEGATIVE, NEUTRAL, POSITIVE = SENTIMENTS
_SENTIMENT, _INTENT = "sentiment", "intent"
_NEWS, _CHAT = "news", "chat"
_EXAMPLES = 2
_LINK = " https://t.co/a1B2c3"


class Result(msgspec.Struct, frozen=True):
    """What came of one test: n cases, those that passed, and two that did not, each with what was answered."""

    name: str
    kind: Kind
    n: int
    passed: int
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Case:
    """Texts that are judged together; `holds` reads their scores, `shown` is what a person sees of them."""

    texts: tuple[str, ...]
    holds: Callable[[Sequence[Score]], bool]
    shown: Callable[[Score], str]


@dataclass(frozen=True, slots=True)
class _Test:
    name: str
    kind: Kind
    stream: str
    cases: tuple[_Case, ...]


def behaviour(scorer: Scorer) -> list[Result]:
    """Run the tests that a scorer's heads allow; what needs a head or a label that it lacks is left out.

    `sentiment` on news must have the labels negative, neutral and positive, and `intent` on chat some that are
    named as in Banking77. Sentiment per entity is tested where a head finds entities and another judges them.

    Raises:
        ScoringError, OutageError: as `Scorer.score`.
    """
    return [_run(scorer, test) for test in _tests(scorer)]


def as_markdown(results: Sequence[Result]) -> str:
    """A table of the results, and examples of what failed."""
    lines = ["| behaviour | kind | passed | of |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.kind} | {each.passed} | {each.n} |" for each in results]
    failures = [f"- {each.name}: {_escaped(failure)}" for each in results for failure in each.failures]
    if failures:
        lines += ["", "What did not hold, two examples each:", "", *failures]
    return "\n".join([*lines, ""])


def _run(scorer: Scorer, test: _Test) -> Result:
    texts = [text for case in test.cases for text in case.texts]
    scores = iter(scorer.score(texts, test.stream))
    passed = 0
    failures: list[str] = []
    for case in test.cases:
        mine = [next(scores) for _ in case.texts]
        if case.holds(mine):
            passed += 1
        else:
            answers = zip(case.texts, mine, strict=True)
            failures.append("; ".join(f"{text!r}: {case.shown(each)}" for text, each in answers))
    return Result(test.name, test.kind, len(test.cases), passed, tuple(failures[:_EXAMPLES]))


def _tests(scorer: Scorer) -> Iterator[_Test]:
    news, chat = scorer.labels(_NEWS), scorer.labels(_CHAT)
    if set(SENTIMENTS) <= set(news.get(_SENTIMENT, ())):
        yield from _of_direction()
        yield from _of_sentiment()
        yield from _of_nothing()
        yield from _of_sameness()
    if _judges_entities(scorer):
        yield _of_companies()
    if _INTENT in chat:
        yield from _of_intents(chat[_INTENT])


def _of_direction() -> Iterator[_Test]:
    pairs = [(up.format(c=name), down.format(c=name)) for up, down in said.DIRECTIONS for name in said.COMPANIES]
    each = [(text, label) for pair in pairs for text, label in zip(pair, (POSITIVE, NEGATIVE), strict=True)]
    yield _test(
        "a plain rise is positive, a plain fall negative",
        "minimum functionality",
        [_labelled(_SENTIMENT, text, {label}) for text, label in each],
    )
    yield _test(
        "one verb turns the label", "directional", [_compared(_SENTIMENT, pair, same=False) for pair in pairs]
    )


def _of_sentiment() -> Iterator[_Test]:
    for name, patterns, allowed in (
        ("bad news that is denied is not negative", said.NOT_NEGATIVE, {NEUTRAL, POSITIVE}),
        ("good news that is denied is not positive", said.NOT_POSITIVE, {NEGATIVE, NEUTRAL}),
        ("less bad than feared is not negative", said.BETTER_THAN_FEARED, {NEUTRAL, POSITIVE}),
        ("less good than hoped is not positive", said.WORSE_THAN_HOPED, {NEGATIVE, NEUTRAL}),
        ("an announcement is neutral", said.NEUTRAL, {NEUTRAL}),
    ):
        texts = [pattern.format(c=company) for pattern in patterns for company in said.COMPANIES]
        yield _test(name, "minimum functionality", [_labelled(_SENTIMENT, text, allowed) for text in texts])


def _of_nothing() -> Iterator[_Test]:
    for name, texts in (
        ("tickers alone claim nothing", said.TICKERS),
        ("a link alone claims nothing", said.LINKS),
        ("numbers alone claim nothing", said.NUMBERS),
        ("an empty text claims nothing", said.EMPTY),
    ):
        yield _test(name, "minimum functionality", [_silent(_SENTIMENT, text) for text in texts])


def _of_sameness() -> Iterator[_Test]:
    patterns = [pattern for pair in said.DIRECTIONS for pattern in pair]
    texts = [pattern.format(c=said.COMPANIES[0]) for pattern in patterns]
    named = [tuple(pattern.format(c=company) for company in said.COMPANIES) for pattern in patterns]
    changes = (
        ("the company's name does not matter", named),
        ("a link at the end does not matter", [(text, text + _LINK) for text in texts]),
        ("the case of the first letter does not matter", [(text, _swapped(text)) for text in texts]),
        ("a full stop at the end does not matter", [(text, f"{text}.") for text in texts]),
    )
    for name, groups in changes:
        yield _test(name, "invariance", [_compared(_SENTIMENT, group, same=True) for group in groups])


def _of_companies() -> _Test:
    count = len(said.COMPANIES)
    cases: list[_Case] = []
    for pattern in said.COMPARISONS:
        for number, good in enumerate(said.COMPANIES):
            bad = said.COMPANIES[(number + 1) % count]
            cases.append(_judged(pattern.format(a=good, b=bad), {good: POSITIVE, bad: NEGATIVE}))
    return _test("of two companies each has its own sentiment", "minimum functionality", cases)


def _of_intents(labels: Sequence[str]) -> Iterator[_Test]:
    known = [(label, plain, other, typed) for label, plain, other, typed in said.INTENTS if label in labels]
    if known:
        asked = [(label, text) for label, plain, other, _ in known for text in (plain, other)]
        yield _test(
            "a plain question gets its intent",
            "minimum functionality",
            [_labelled(_INTENT, text, {label}) for label, text in asked],
            _CHAT,
        )
        for name, groups in (
            ("other words for the same question do not matter", [(plain, other) for _, plain, other, _ in known]),
            ("typing errors do not matter", [(plain, typed) for _, plain, _, typed in known]),
        ):
            yield _test(name, "invariance", [_compared(_INTENT, group, same=True) for group in groups], _CHAT)
    yield _test(
        "a question from elsewhere is none of the intents",
        "minimum functionality",
        [_Case((text,), _is_none, _shown(_INTENT)) for text in said.ELSEWHERE],
        _CHAT,
    )


def _swapped(text: str) -> str:
    return text[:1].swapcase() + text[1:]


def _is_none(scores: Sequence[Score]) -> bool:
    return scores[0].heads[_INTENT].decision == "none"


def _test(name: str, kind: Kind, cases: Sequence[_Case], stream: str = _NEWS) -> _Test:
    return _Test(name, kind, stream, tuple(cases))


def _labelled(head: str, text: str, allowed: set[str]) -> _Case:
    """The label must be one of these."""
    return _Case((text,), lambda scores: scores[0].heads[head].label in allowed, _shown(head))


def _silent(head: str, text: str) -> _Case:
    """Nothing but neutral may be claimed."""

    def holds(scores: Sequence[Score]) -> bool:
        answer = scores[0].heads[head]
        return answer.label == NEUTRAL or answer.decision != "label"

    return _Case((text,), holds, _shown(head))


def _compared(head: str, texts: tuple[str, ...], same: bool) -> _Case:
    """All labels must be the same, or no two of them."""

    def holds(scores: Sequence[Score]) -> bool:
        return len({score.heads[head].label for score in scores}) == (1 if same else len(texts))

    return _Case(texts, holds, _shown(head))


def _judged(text: str, wanted: dict[str, str]) -> _Case:
    """Each company must be found, with this sentiment."""

    def holds(scores: Sequence[Score]) -> bool:
        found = {name: answer.label for name, answer in _companies(scores[0])}
        return all(found.get(name) == label for name, label in wanted.items())

    return _Case((text,), holds, lambda score: _listed(_companies(score)))


def _companies(score: Score) -> list[tuple[str, Answer]]:
    """What is said of each entity by the first head that says a sentiment of it."""
    return [(entity.text, answer) for entity in _entities(score) for answer in list(entity.heads.values())[:1]]


def _entities(score: Score) -> list[EntityResult]:
    listed = [result.entities for result in score.heads.values()]
    return [entity for entities in listed if entities is not UNSET for entity in entities]


def _judges_entities(scorer: Scorer) -> bool:
    """Whether entities are given a sentiment; one that finds none in plain sentences is put to the test, too."""
    texts = [pattern.format(a=said.COMPANIES[0], b=said.COMPANIES[1]) for pattern in said.COMPARISONS]
    scores = scorer.score(texts, _NEWS)
    if all(result.entities is UNSET for score in scores for result in score.heads.values()):
        return False
    answers = [answer for score in scores for _, answer in _companies(score)]
    return any(answer.label in SENTIMENTS for answer in answers) or not any(map(_entities, scores))


def _shown(head: str) -> Callable[[Score], str]:
    return lambda score: _said(score.heads[head])


def _said(answer: Answer) -> str:
    decision = "" if answer.decision == "label" else f", {answer.decision}"
    return f"{answer.label} ({answer.probability:.2f}{decision})"


def _listed(found: Sequence[tuple[str, Answer]]) -> str:
    return ", ".join(f"{name} {_said(answer)}" for name, answer in found) or "no entity found"


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
