"""What each word of a text weighs: the sum over its pieces. N lines, T tokens, W words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.tokens import Batch


def word_weights(batch: Batch, rows: Sequence[int], tokens: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The weights [W] of the words of each line's text, in the text's order.

    Args:
        batch: B texts of T tokens.
        rows: [N], the text of each line.
        tokens: weights of tokens, none below 0 [N, T]; what stands outside words does not count.
    """
    found: list[NDArray[np.float64]] = []
    for row, line in zip(rows, tokens, strict=True):
        numbers = batch.word_numbers[row]
        worded = numbers >= 0
        found.append(np.bincount(numbers[worded], line[worded]).astype(np.float64))
    return found


def shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [W] as shares of their sum; as they are where the sum is 0."""
    total = weights.sum()
    return weights / total if total > 0 else weights
