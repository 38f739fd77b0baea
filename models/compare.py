"""Two scorers over the same texts: where they agree, what changes from one to the other, and how fast each is."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from models.scorer import Scorer
from schemas.errors import ScoringError, UsageError
from schemas.scores import HeadResult, Score

# More texts at a time bring no better batches.
_GROUP = 512
# Kinds of changes that are told for each head, and texts for each of them.
_CHANGES = 10
_EXAMPLES = 2

Pair = tuple[Score, Score]


class Truth(Struct, frozen=True):
    """What the texts should be called by one head; None where a text has no label."""

    head: str
    labels: Sequence[str | None]


class Change(Struct, frozen=True):
    """Texts that one scorer answers in one way and the other in another: a label, and what it makes of it."""

    before: str
    after: str
    count: int
    examples: list[str]


class HeadComparison(Struct, frozen=True):
    """A head that both have: shares of texts (0 to 1) with the same label and with the same decision."""

    n: int
    equal_labels: float
    equal_decisions: float
    changes: list[Change]


class Figures(Struct, frozen=True):
    """Labels against the truth; macro-F1 is the mean over the labels that occur in either."""

    n: int
    accuracy: float
    macro_f1: float


class Side(Struct, frozen=True):
    """One of the two; `figures` where rows had labels and it has the head."""

    bundle: str
    texts_per_s: float
    only_here: list[str]
    figures: Figures | None = None


class Comparison(Struct, frozen=True):
    """`refused` texts are left out; `cosine` is the mean over texts, None for vectors of different widths."""

    n: int
    refused: int
    a: Side
    b: Side
    heads: dict[str, HeadComparison]
    cosine: float | None


def compare(a: Scorer, b: Scorer, texts: Sequence[str], stream: str, truth: Truth | None = None) -> Comparison:
    """Score the texts with both, group by group in turn, so that both meet the same machine.

    Raises:
        UsageError: no text, or `truth` names a head or a label that neither has.
    """
    if not texts:
        raise UsageError("there is no text to compare by; give a file with a text a line")
    if truth is not None:
        _check_truth(a, b, stream, truth)
    seconds = [0.0, 0.0]
    found: list[tuple[Score | None, Score | None]] = []
    for first in range(0, len(texts), _GROUP):
        group = texts[first : first + _GROUP]
        scores = []
        for side, scorer in enumerate((a, b)):
            begun = time.perf_counter()
            scores.append(_scores(scorer, group, stream))
            seconds[side] += time.perf_counter() - begun
        found += zip(*scores, strict=True)
    pairs = {at: (one, other) for at, (one, other) in enumerate(found) if one is not None and other is not None}
    both = [head for head in a.heads(stream) if head in b.heads(stream)]
    return Comparison(
        len(pairs),
        len(texts) - len(pairs),
        _side(a, b, stream, len(texts) / seconds[0], {at: one for at, (one, _) in pairs.items()}, truth),
        _side(b, a, stream, len(texts) / seconds[1], {at: other for at, (_, other) in pairs.items()}, truth),
        {head: _head(head, texts, pairs) for head in both},
        _cosine(list(pairs.values())),
    )


def figures(truth: Sequence[str], said: Sequence[str]) -> Figures:
    """Accuracy and macro-F1 of at least one label."""
    hits = Counter(want for want, got in zip(truth, said, strict=True) if want == got)
    wanted, given = Counter(truth), Counter(said)
    scores = [2 * hits[label] / (wanted[label] + given[label]) for label in wanted | given]
    return Figures(len(truth), sum(hits.values()) / len(truth), sum(scores) / len(scores))


def _check_truth(a: Scorer, b: Scorer, stream: str, truth: Truth) -> None:
    known = [labels for each in (a, b) if (labels := each.labels(stream).get(truth.head))]
    if not known:
        heads = ", ".join(dict.fromkeys([*a.heads(stream), *b.heads(stream)])) or "none"
        raise UsageError(f"neither bundle has a head {truth.head!r} for {stream}; there are {heads}")
    for row, label in enumerate(truth.labels, 1):
        if label is not None and not any(label in labels for labels in known):
            raise UsageError(
                f"text {row} has the label {label!r}, which {truth.head} does not know; "
                f"it knows {', '.join(dict.fromkeys(sum(known, ())))}"
            )
    if not any(label is not None for label in truth.labels):
        raise UsageError(f"no row has a label for {truth.head}; mend the name of the field")


def _scores(scorer: Scorer, texts: Sequence[str], stream: str) -> list[Score | None]:
    try:
        return list(scorer.score(texts, stream))
    except ScoringError:
        if len(texts) == 1:
            return [None]
    middle = len(texts) // 2
    return _scores(scorer, texts[:middle], stream) + _scores(scorer, texts[middle:], stream)


def _side(
    scorer: Scorer,
    other: Scorer,
    stream: str,
    texts_per_s: float,
    scores: Mapping[int, Score],
    truth: Truth | None,
) -> Side:
    only = [head for head in scorer.heads(stream) if head not in other.heads(stream)]
    if truth is None or truth.head not in scorer.heads(stream):
        return Side(scorer.bundle, texts_per_s, only)
    answers = {at: score.heads[truth.head].label for at, score in scores.items() if truth.head in score.heads}
    labelled = [(label, answers[at]) for at in answers if (label := truth.labels[at]) is not None]
    found = figures([label for label, _ in labelled], [said for _, said in labelled]) if labelled else None
    return Side(scorer.bundle, texts_per_s, only, found)


def _head(head: str, texts: Sequence[str], pairs: Mapping[int, Pair]) -> HeadComparison:
    answers = {
        at: (one.heads[head], other.heads[head])
        for at, (one, other) in pairs.items()
        if head in one.heads and head in other.heads
    }
    labels = sum(one.label == other.label for one, other in answers.values())
    decisions = sum(one.decision == other.decision for one, other in answers.values())
    changed: dict[tuple[str, str], list[int]] = {}
    for at, (one, other) in answers.items():
        if (one.label, one.decision) != (other.label, other.decision):
            changed.setdefault((_answer(one), _answer(other)), []).append(at)
    most = sorted(changed.items(), key=lambda item: -len(item[1]))[:_CHANGES]
    n = max(1, len(answers))
    return HeadComparison(
        len(answers),
        labels / n,
        decisions / n,
        [Change(*kind, len(found), [texts[at] for at in found[:_EXAMPLES]]) for kind, found in most],
    )


def _answer(result: HeadResult) -> str:
    return result.label if result.decision == "label" else f"{result.label} ({result.decision})"


def _cosine(pairs: Sequence[Pair]) -> float | None:
    vectors = [
        (_vector(one), _vector(other))
        for one, other in pairs
        if one.embedding and len(one.embedding) == len(other.embedding)
    ]
    if not vectors:
        return None
    return float(np.mean([one @ other / (np.linalg.norm(one) * np.linalg.norm(other)) for one, other in vectors]))


def _vector(score: Score) -> Any:
    return np.frombuffer(score.embedding, np.int8).astype(np.float64)
