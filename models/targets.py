"""What heads shall answer, in numbers: from examples and their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from models.data import Example, tagged_words
from models.recipe import Recipe
from models.spans import words_within
from models.tokens import words_of

# What a loss passes over: tokens that begin no word.
IGNORED = -100


@dataclass(slots=True)
class Target:
    """The answers to one text of T tokens.

    `labels` gives the number of the label by head; `tags` [T] the number of the tag at the first token of each
    word and `IGNORED` elsewhere, for the head `tagging`; `asked` [T] marks the first tokens of the words that
    carry tags in the data; `open_tags` [L] is 1 for O and for tags of types that nobody marked here; `spans` holds
    first word, the one after the last, and label number, for the head `judging`.
    """

    labels: dict[str, int] = field(default_factory=dict)
    tagging: str = ""
    tags: NDArray[np.int64] | None = None
    asked: NDArray[np.bool_] | None = None
    open_tags: NDArray[np.float32] | None = None
    judging: str = ""
    spans: list[tuple[int, int, int]] = field(default_factory=list)


def tags_of(labels: Sequence[str]) -> list[str]:
    """BIO tags of an entity head with these types, in the order of its logits."""
    return ["O", *(f"{mark}-{label}" for label in labels for mark in "BI")]


def target(example: Example, encoding: Encoding, recipe: Recipe) -> Target:
    """The numbers of one example's answers; what truncation cut off is left out."""
    found = Target({name: recipe.head(name).labels.index(label) for name, label in example.labels.items()})
    places = words_of(encoding)
    if example.tagging:
        types = recipe.head(example.tagging).labels
        numbers = {tag: number for number, tag in enumerate(tags_of(types))}
        tags = [numbers[tag] for tag in tagged_words(places, example.spans)]
        found.tagging = example.tagging
        found.tags = first_pieces(encoding, tags)
        found.asked = begins(encoding, example.words) if example.words else found.tags != IGNORED
        marked = example.annotated or types
        found.open_tags = np.array([tag == "O" or tag[2:] not in marked for tag in numbers], np.float32)
    if example.judging:
        labels = recipe.head(example.judging).labels
        found.judging = example.judging
        for span in example.spans:
            words = words_within(places, span.start, span.end)
            if words:
                found.spans.append((*words, labels.index(span.label)))
    return found


def first_pieces(encoding: Encoding, values: Sequence[int]) -> NDArray[np.int64]:
    """The value of each word at its first token, `IGNORED` elsewhere: [T]."""
    found = np.full(len(encoding), IGNORED, np.int64)
    before: int | None = None
    for position, number in enumerate(encoding.word_ids):
        if number is not None and number != before:
            found[position] = values[number]
        before = number
    return found


def begins(encoding: Encoding, words: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """The first token of each word given as [start, end) in characters, of those that truncation left: [T]."""
    found = np.zeros(len(encoding), bool)
    starts = {start for start, _ in words}
    for position, (number, (start, _)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        found[position] = number is not None and start in starts
    return found
