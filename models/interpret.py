"""From what the graph gives to what a person reads: labels, probabilities, words and the packed vector."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.bundle import EMBEDDING, Bundle, Head
from models.tokens import Batch
from schemas.errors import ScoringError
from schemas.scores import HeadResult, Score, Word

Outputs = Mapping[str, NDArray[np.float32]]

# A scored message holds the words and must fit a broker's limit; nobody reads a longer word to its end.
WORD_CHARACTERS = 64


class Interpreter:
    """Reads the outputs of a bundle's graph.

    Args:
        bundle: gives labels, temperatures and streams.
        top_words: words that each head returns, strongest first.
    """

    def __init__(self, bundle: Bundle, top_words: int) -> None:
        self._bundle = bundle
        self._top_words = top_words

    def scores(self, batch: Batch, outputs: Outputs, stream: str) -> list[Score]:
        """Scores of one batch, in the batch's own order.

        Raises:
            ScoringError: a figure is not finite.
        """
        heads = {
            head.name: self._head(batch, outputs, head)
            for head in self._bundle.manifest.heads
            if head.labels and stream in head.streams
        }
        packed = self._embeddings(outputs[EMBEDDING]) if self._bundle.embeds(stream) else None
        tokens = batch.attention_mask.sum(axis=1).tolist()
        return [
            Score(
                {name: results[row] for name, results in heads.items()},
                *(packed[row] if packed else (b"", 0.0)),
                tokens=tokens[row],
                truncated=truncated,
            )
            for row, truncated in enumerate(batch.truncated)
        ]

    def _head(self, batch: Batch, outputs: Outputs, head: Head) -> list[HeadResult]:
        chances = softmax(outputs[f"{head.name}.logits"] / head.temperature)  # [B, L]
        _require_finite(chances, head.name)
        best = chances.argmax(axis=1)  # [B]
        chance = chances[np.arange(len(best)), best].tolist()
        words = top_words(batch, outputs[f"{head.name}.alpha"], self._top_words)
        return [
            HeadResult(head.labels[label], probability, "label", spotted)
            for label, probability, spotted in zip(best.tolist(), chance, words, strict=True)
        ]

    @staticmethod
    def _embeddings(vectors: NDArray[np.float32]) -> list[tuple[bytes, float]]:
        """Each row as int8 bytes and the scale that gives the floats back, largest absolute value / 127."""
        _require_finite(vectors, EMBEDDING)
        scales = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / 127  # [B]
        packed = np.rint(vectors / scales[:, None]).astype(np.int8)  # [B, D]
        return [(row.tobytes(), scale) for row, scale in zip(packed, scales.tolist(), strict=True)]


def top_words(batch: Batch, alpha: NDArray[np.float32], count: int) -> list[list[Word]]:
    """The words that hold most of the attention, per text; a word's weight is the sum over its pieces.

    A word is cut to `WORD_CHARACTERS`.

    Args:
        batch: B texts of T tokens.
        alpha: attention over tokens [B, T], 0 outside words.
        count: words a text at most; there are fewer in a text of fewer words.
    """
    rows, _ = batch.word_numbers.shape
    width = int(batch.word_numbers.max(initial=-1)) + 1
    if not width or not count:
        return [[] for _ in range(rows)]
    row, token = np.nonzero(batch.word_mask)
    numbers = batch.word_numbers[row, token]
    weights = np.bincount(row * width + numbers, alpha[row, token], rows * width).reshape(rows, width)  # [B, W]
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]  # [B, count]
    strongest = np.take_along_axis(weights, order, axis=1).tolist()
    present = batch.word_numbers.max(axis=1).tolist()
    return [
        [
            Word(_word(batch, index, number), weight)
            for number, weight in zip(numbers_, weights_, strict=True)
            if number <= last
        ]
        for index, (numbers_, weights_, last) in enumerate(zip(order.tolist(), strongest, present, strict=True))
    ]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _word(batch: Batch, row: int, number: int) -> str:
    span = batch.encodings[row].word_to_chars(number)
    return batch.texts[row][slice(*span)].strip()[:WORD_CHARACTERS] if span else ""


def _require_finite(figures: NDArray[np.float32], name: str) -> None:
    if not np.isfinite(figures).all():
        raise ScoringError(
            f"The head {name} gave a figure that is not finite; score the texts one by one to find which."
        )
