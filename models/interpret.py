"""From what the graphs give to what a person reads: labels, probabilities, words and the packed vector."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from models.bundle import EMBEDDING, Bundle, Head
from models.entities import Found
from models.tokens import Batch, words_of
from schemas.errors import ScoringError
from schemas.labels import Decision
from schemas.scores import Answer, EntityResult, HeadResult, Score, Word

Outputs = Mapping[str, NDArray[np.float32]]

# A scored message holds the words and must fit a broker's limit; nobody reads a longer word to its end.
WORD_CHARACTERS = 64
# How much a label's probability counts beside the nearest neighbour's cosine for whether a text is of any label.
# Of 77 intents of Banking77 19 were held out, five times: AUROC .901 by the cosine alone, .876 by the probability
# alone, .915, .920, .920 and .917 with this at .1, .2, .3 and .5.
SURE = 0.3
# Entities that one head lists for a text; a list of ticker symbols holds more than anybody reads.
MOST_ENTITIES = 50


class Inferred(NamedTuple):
    """What the graphs gave for one batch.

    `entities` are those of each entity head, and `judged` the outputs [S, ...] of the span heads about them, those
    of one entity head after the other in the order of `entities`.
    """

    outputs: Outputs
    entities: Mapping[str, list[Found]]
    judged: Mapping[str, Outputs]


class Interpreter:
    """Reads the outputs of a bundle's graphs.

    Args:
        bundle: gives labels, temperatures, thresholds and streams.
        banks: by head, the vectors [K, D] of texts that it knows, normalised.
        top_words: words that each head returns, strongest first.
    """

    def __init__(self, bundle: Bundle, banks: Mapping[str, NDArray[np.float32]], top_words: int) -> None:
        self._bundle = bundle
        self._banks = banks
        self._top_words = top_words

    def scores(self, batch: Batch, found: Inferred, stream: str, unsupported: Sequence[bool]) -> list[Score]:
        """Scores of one batch, in the batch's own order.

        Args:
            unsupported: of each text, whether its language is one that the bundle does not read.

        Raises:
            ScoringError: a figure is not finite.
        """
        outputs = found.outputs
        heads: dict[str, list[HeadResult]] = {}
        for head in self._bundle.manifest.heads:
            if stream not in head.streams:
                continue
            if head.kind == "label":
                heads[head.name] = self._labels(batch, outputs, head, unsupported)
            elif head.kind == "entity":
                heads[head.name] = self._entities(batch, found, head, stream, unsupported)
        packed = pack(outputs[EMBEDDING]) if self._bundle.embeds(stream) else None
        tokens = batch.attention_mask.sum(axis=1).tolist()
        return [
            Score(
                {name: results[row] for name, results in heads.items()},
                *(packed[row] if packed else (b"", 0.0)),
                tokens=tokens[row],
                truncated=truncated,
                truncated_share=_unread(batch, row) if truncated else 0.0,
            )
            for row, truncated in enumerate(batch.truncated)
        ]

    def _labels(self, batch: Batch, outputs: Outputs, head: Head, unsupported: Sequence[bool]) -> list[HeadResult]:
        answers = self._answers(batch, range(len(batch.texts)), outputs, head)
        known = np.ones(len(answers), bool)
        if head.none_below is not None:
            chance = np.array([answer.probability for answer in answers])
            known = familiarity(outputs[EMBEDDING], self._banks[head.name], chance) >= head.none_below
        found: list[HeadResult] = []
        for row, answer in enumerate(answers):
            decision: Decision = answer.decision
            if unsupported[row]:
                decision = "unsupported"
            elif not known[row]:
                decision = "none"
            found.append(HeadResult(answer.label, answer.probability, decision, answer.words))
        return found

    def _answers(self, batch: Batch, rows: Sequence[int], outputs: Outputs, head: Head) -> list[Answer]:
        """The answers of a label or span head; `rows` are the texts, one for each line of its logits."""
        chances = softmax(outputs[f"{head.name}.logits"] / head.temperature)  # [N, L]
        _require_finite(chances, head.name)
        best = chances.argmax(axis=1)  # [N]
        chance = chances[np.arange(len(best)), best].tolist()
        words = top_words(batch, rows, outputs[f"{head.name}.alpha"], self._top_words)
        return [
            Answer(head.labels[label], each, "label" if each >= head.unsure_below else "unsure", spotted)
            for label, each, spotted in zip(best.tolist(), chance, words, strict=True)
        ]

    def _entities(
        self, batch: Batch, found: Inferred, head: Head, stream: str, unsupported: Sequence[bool]
    ) -> list[HeadResult]:
        entities = found.entities[head.name]
        judges = [
            each
            for each in self._bundle.manifest.heads
            if each.spans == head.name and stream in each.streams and each.name in found.judged
        ]
        rows = [entity.row for entity in entities]
        said = {
            judge.name: _read(self._answers(batch, rows, found.judged[judge.name], judge), rows, unsupported)
            for judge in judges
        }
        listed: list[list[EntityResult]] = [[] for _ in batch.texts]
        places = {row: words_of(batch.encodings[row]) for row in set(rows)}
        for number, entity in enumerate(entities):
            start, end = places[entity.row][entity.first][0], places[entity.row][entity.last - 1][1]
            listed[entity.row].append(
                EntityResult(
                    batch.texts[entity.row][start:end],
                    start,
                    end,
                    entity.type,
                    entity.probability,
                    {name: answers[number] for name, answers in said.items()},
                )
            )
        return [_entity_result(each, missed) for each, missed in zip(listed, unsupported, strict=True)]


def _read(answers: Sequence[Answer], rows: Sequence[int], unsupported: Sequence[bool]) -> list[Answer]:
    """Answers about spans; what stands in a text that cannot be read is said to be so."""
    return [
        structs.replace(answer, decision="unsupported") if unsupported[row] else answer
        for row, answer in zip(rows, answers, strict=True)
    ]


def pack(vectors: NDArray[np.float32]) -> list[tuple[bytes, float]]:
    """Each row as int8 bytes and the scale that gives the floats back, largest absolute value / 127.

    Raises:
        ScoringError: a figure is not finite.
    """
    _require_finite(vectors, EMBEDDING)
    scales = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / 127  # [B]
    packed = np.rint(vectors / scales[:, None]).astype(np.int8)  # [B, D]
    return [(row.tobytes(), scale) for row, scale in zip(packed, scales.tolist(), strict=True)]


def nearest(vectors: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest cosine of each normalised vector [B, D] to those of a bank [K, D]: [B]."""
    found: NDArray[np.float32] = (vectors @ bank.T).max(axis=1)
    return found


def familiarity(
    vectors: NDArray[np.float32], bank: NDArray[np.float32], chance: NDArray[Any]
) -> NDArray[np.float64]:
    """How much a text is like those of known labels: the cosine to the nearest of them, and `SURE` times the
    probability of the label named [B]. Low for a text that is none of the labels.
    """
    known: NDArray[np.float64] = nearest(vectors, bank) + SURE * chance
    return known


def top_words(batch: Batch, rows: Sequence[int], alpha: NDArray[np.float32], count: int) -> list[list[Word]]:
    """The words that hold most of the attention; a word's weight is the sum over its pieces.

    A word is cut to `WORD_CHARACTERS`.

    Args:
        batch: B texts of T tokens.
        rows: [N], the text of each line of `alpha`.
        alpha: attention over tokens [N, T], 0 outside words.
        count: words a line at most; there are fewer in a text of fewer words.
    """
    width = int(batch.word_numbers.max(initial=-1)) + 1
    if not width or not count or not len(rows):
        return [[] for _ in rows]
    numbers = batch.word_numbers[list(rows)]  # [N, T]
    line, token = np.nonzero(numbers >= 0)
    weights = np.bincount(line * width + numbers[line, token], alpha[line, token], len(rows) * width).reshape(
        len(rows), width
    )  # [N, W]
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]  # [N, count]
    strongest = np.take_along_axis(weights, order, axis=1).tolist()
    present = numbers.max(axis=1).tolist()
    return [
        [
            Word(_word(batch, row, number), weight)
            for number, weight in zip(numbers_, weights_, strict=True)
            if number <= last
        ]
        for row, numbers_, weights_, last in zip(rows, order.tolist(), strongest, present, strict=True)
    ]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _entity_result(entities: list[EntityResult], unsupported: bool) -> HeadResult:
    surest = max(entities, key=lambda each: each.probability, default=None)
    decision: Decision = "unsupported" if unsupported else "label" if surest else "none"
    label, probability = (surest.type, surest.probability) if surest else ("", 0.0)
    words = [Word(each.text[:WORD_CHARACTERS], each.probability) for each in entities]
    return HeadResult(label, probability, decision, words[:MOST_ENTITIES], entities[:MOST_ENTITIES])


def _unread(batch: Batch, row: int) -> float:
    """The share of a truncated text's characters that come after its last token."""
    end = max((end for _, end in batch.encodings[row].offsets), default=0)
    return round(1.0 - end / max(1, len(batch.texts[row])), 4)


def _word(batch: Batch, row: int, number: int) -> str:
    span = batch.encodings[row].word_to_chars(number)
    return batch.texts[row][slice(*span)].strip()[:WORD_CHARACTERS] if span else ""


def _require_finite(figures: NDArray[np.float32], name: str) -> None:
    if not np.isfinite(figures).all():
        raise ScoringError(
            f"The head {name} gave a figure that is not finite; score the texts one by one to find which."
        )
