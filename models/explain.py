"""Which words made each head decide: all words of a text with their weights, in order; needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from models.bundle import Bundle, Head
from models.interpret import MOST_ENTITIES, Inferred
from models.runtime import OnnxScorer
from models.spans import relations
from models.tokens import Batch, words_of
from models.weights import shares, word_weights
from schemas.scores import Answer, EntityResult, Score


class Relevance(Protocol):
    """A second opinion on what each token was good for, beside attention (`models.gradient.Gradient`)."""

    def __call__(
        self,
        batch: Batch,
        head: str,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        relation: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """How much each token moved a label, never below 0: [N, T].

        Args:
            rows: [N], the text of each line.
            labels: [N], the number of each line's label.
            relation: [N, T], for a head for spans (`models.spans.relations`).
        """


@dataclass(frozen=True, slots=True)
class Reading:
    """One head's answer, and the weight of every word for it.

    `attention` are shares of all attention, one for each word of the text; empty for a head that has none.
    `gradient` are shares of |gradient x input| for the label that was named; empty where nobody asked.
    """

    head: str
    label: str
    probability: float
    decision: str
    attention: tuple[float, ...] = ()
    gradient: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedEntity:
    """An entity, [start, end) in characters of the text, and how the heads for spans read the text for it."""

    text: str
    start: int
    end: int
    type: str
    probability: float
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One text as the model reads it (links out, white space folded) and how each head read it.

    `words` are the [start, end) of its words in characters; what comes after the last one was not read, which is
    `truncated_share` of the text.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    truncated_share: float
    unsupported: bool
    readings: tuple[Reading, ...]
    entities: tuple[ExplainedEntity, ...]

    def word(self, number: int) -> str:
        """A word by its number."""
        start, end = self.words[number]
        return self.text[start:end]


def explain(
    scorer: OnnxScorer, bundle: Bundle, texts: Sequence[str], stream: str, relevance: Relevance | None = None
) -> list[Explanation]:
    """Explain every head of a stream on texts, in the order given.

    Args:
        scorer: the scorer of `bundle`.
        relevance: a second opinion on the words.

    Raises:
        ScoringError, OutageError: as `OnnxScorer.score`.
    """
    batches = scorer.prepare(texts)
    inferred = [scorer.infer(batch, stream) for batch in batches]
    scores = scorer.interpret(batches, inferred, stream)
    found: dict[int, Explanation] = {}
    for batch, outputs in zip(batches, inferred, strict=True):
        positions = batch.positions.tolist()
        mine = [scores[position] for position in positions]
        explained = _Explainer(bundle, stream, relevance, batch, outputs).explain(mine)
        found.update(zip(positions, explained, strict=True))
    return [found[position] for position in range(len(texts))]


class _Explainer:
    """Reads one batch."""

    def __init__(
        self, bundle: Bundle, stream: str, relevance: Relevance | None, batch: Batch, inferred: Inferred
    ) -> None:
        self._heads = [head for head in bundle.manifest.heads if stream in head.streams]
        self._relevance = relevance
        self._batch = batch
        self._inferred = inferred

    def explain(self, scores: Sequence[Score]) -> list[Explanation]:
        readings: list[list[Reading]] = [[] for _ in scores]
        entities: list[list[ExplainedEntity]] = [[] for _ in scores]
        for head in self._heads:
            answers = [score.heads[head.name] for score in scores if head.name in score.heads]
            if head.kind == "label":
                rows = list(range(len(scores)))
                alpha = self._inferred.outputs[f"{head.name}.alpha"]
                for row, reading in zip(rows, self._readings(head, rows, answers, alpha), strict=True):
                    readings[row].append(reading)
            elif head.kind == "entity":
                for row, answer in enumerate(answers):
                    readings[row].append(Reading(head.name, answer.label, answer.probability, answer.decision))
                listed = [[] if answer.entities is UNSET else answer.entities for answer in answers]
                for row, found in enumerate(self._entities(head, listed)):
                    entities[row] += found
        return [
            Explanation(
                text,
                tuple(words_of(encoding)),
                score.truncated_share,
                any(each.decision == "unsupported" for each in score.heads.values()),
                tuple(mine),
                tuple(found),
            )
            for text, encoding, score, mine, found in zip(
                self._batch.texts, self._batch.encodings, scores, readings, entities, strict=True
            )
        ]

    def _entities(self, head: Head, listed: Sequence[Sequence[EntityResult]]) -> list[list[ExplainedEntity]]:
        """The entities of each text that one head found, judged by the heads for spans."""
        places: list[tuple[int, int]] = []  # row, and place in the row's list
        lines: list[int] = []
        counts = [0] * len(listed)
        for line, entity in enumerate(self._inferred.entities[head.name]):
            if counts[entity.row] < MOST_ENTITIES:
                places.append((entity.row, counts[entity.row]))
                lines.append(line)
            counts[entity.row] += 1
        said: list[list[Reading]] = [[] for _ in lines]
        for judge in self._heads:
            if judge.spans != head.name or judge.name not in self._inferred.judged or not lines:
                continue
            answers = [listed[row][place].heads[judge.name] for row, place in places]
            for mine, reading in zip(said, self._of_spans(head, judge, lines, answers), strict=True):
                mine.append(reading)
        found: list[list[ExplainedEntity]] = [[] for _ in listed]
        for (row, place), readings in zip(places, said, strict=True):
            each = listed[row][place]
            found[row].append(
                ExplainedEntity(each.text, each.start, each.end, each.type, each.probability, tuple(readings))
            )
        return found

    def _of_spans(self, head: Head, judge: Head, lines: Sequence[int], answers: Sequence[Answer]) -> list[Reading]:
        entities = [self._inferred.entities[head.name][line] for line in lines]
        rows = [entity.row for entity in entities]
        alpha = self._inferred.judged[judge.name][f"{judge.name}.alpha"][list(lines)]
        relation = relations(self._batch.word_numbers, rows, [(each.first, each.last) for each in entities])
        return self._readings(judge, rows, answers, alpha, relation)

    def _readings(
        self,
        head: Head,
        rows: Sequence[int],
        answers: Sequence[Answer],
        alpha: NDArray[np.float32],
        relation: NDArray[np.int64] | None = None,
    ) -> list[Reading]:
        """One reading for each line of `alpha` [N, T]."""
        attention = word_weights(self._batch, rows, alpha)
        gradient: list[NDArray[np.float64]] = [np.empty(0)] * len(rows)
        if self._relevance is not None:
            labels = np.array([head.labels.index(answer.label) for answer in answers], np.int64)
            tokens = self._relevance(self._batch, head.name, np.asarray(rows, np.int64), labels, relation)
            gradient = [shares(each) for each in word_weights(self._batch, rows, tokens)]
        return [
            Reading(
                head.name,
                answer.label,
                round(answer.probability, 4),
                answer.decision,
                _rounded(weights),
                _rounded(second),
            )
            for answer, weights, second in zip(answers, attention, gradient, strict=True)
        ]


def strongest(weights: Sequence[float], count: int) -> list[int]:
    """Numbers of the words that weigh most, the strongest first; words without weight are left out."""
    order = sorted(range(len(weights)), key=lambda number: -weights[number])
    return [number for number in order[:count] if weights[number] > 0]


def _rounded(weights: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(weight, 4) for weight in weights.tolist())
