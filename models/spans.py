"""Where words stand to a span: what a span head is told besides the states. S spans, T tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Distances in words, by which what is near is told apart and what is far is not.
_BOUNDS = np.array([1, 2, 4, 8, 16])
_INSIDE = 1

# How many relations there are: none, inside, and per side one for each bound and one beyond.
RELATIONS = 2 + 2 * (len(_BOUNDS) + 1)


def relations(
    word_numbers: NDArray[np.int32], rows: Sequence[int], words: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """How each token stands to a span: 0 no word, 1 inside, else by side and distance; [S, T].

    Args:
        word_numbers: [B, T], the word of each token, -1 for none.
        rows: [S], the text of each span.
        words: [S], first word and the one after the last of each span.
    """
    numbers = word_numbers[np.asarray(rows, np.int64)]  # [S, T]
    bounds = np.asarray(words, np.int64).reshape(-1, 2)
    before = bounds[:, :1] - numbers  # [S, T], 1 for the word just before
    after = numbers - bounds[:, 1:] + 1  # [S, T], 1 for the word just after
    left = 2 + np.searchsorted(_BOUNDS, before)
    right = 2 + len(_BOUNDS) + 1 + np.searchsorted(_BOUNDS, after)
    found = np.where(before > 0, left, np.where(after > 0, right, _INSIDE))
    return np.where(numbers < 0, 0, found).astype(np.int64)


def words_within(places: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """First word and the one after the last of those that touch [start, end) in characters; None without any."""
    inside = [number for number, (first, last) in enumerate(places) if first < end and start < last]
    return (inside[0], inside[-1] + 1) if inside else None
