"""From the tags of words to entities. B texts, T tokens, L tags."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.tokens import Batch


class Found(NamedTuple):
    """An entity: its text in the batch, first word and the one after the last, its type, and how sure that is."""

    row: int
    first: int
    last: int
    type: str
    probability: float


def find_entities(batch: Batch, chances: NDArray[np.float32], tags: Sequence[str]) -> list[Found]:
    """Entities of a batch, by text and place; a word is judged by its first token.

    Args:
        chances: of each tag [B, T, L]; 0 is O.
        tags: BIO, in the order of the chances.
    """
    best = chances.argmax(axis=2)  # [B, T]
    numbers = batch.word_numbers
    begins = (numbers >= 0) & (numbers != np.pad(numbers, ((0, 0), (1, 0)), constant_values=-1)[:, :-1])  # [B, T]
    found: list[Found] = []
    for row in np.nonzero((begins & (best > 0)).any(axis=1))[0].tolist():
        tokens = np.nonzero(begins[row])[0]
        labels = best[row, tokens]
        sure = chances[row, tokens, labels]
        found += [
            Found(row, first, last, kind, float(sure[first:last].mean()))
            for first, last, kind in runs([tags[label] for label in labels])
        ]
    return found


def runs(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, the one after the last, and type of each entity; an I- that follows nothing of its type begins
    one, as in the CoNLL evaluation.
    """
    found: list[tuple[int, int, str]] = []
    before = ""
    for number, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == "I" and before == kind:
            found[-1] = (found[-1][0], number + 1, kind)
        elif kind:
            found.append((number, number + 1, kind))
        before = kind
    return found
