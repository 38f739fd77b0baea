"""Answers of examples in numbers."""

import numpy as np
import pytest

from models.bundle import TOKENIZER, find_bundle
from models.data import Example, Span
from models.recipe import DataRecipe, HeadRecipe, Recipe
from models.targets import IGNORED, Target, tags_of, target
from models.tokens import TextTokenizer

RECIPE = Recipe(
    name="r",
    heads=(
        HeadRecipe(name="mood", kind="label", labels=("bad", "good")),
        HeadRecipe(name="entity", kind="entity", labels=("company", "person")),
        HeadRecipe(name="said", kind="span", spans="entity", labels=("bad", "good")),
    ),
    data=(DataRecipe(path="a", heads=("mood",)),),
)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(find_bundle("") / TOKENIZER, 8)


def numbers_of(tokenizer: TextTokenizer, example: Example) -> Target:
    (encoding,) = tokenizer.encode([example.text])
    return target(example, encoding, RECIPE)


def test_a_label_is_its_place_among_the_labels_of_the_head(tokenizer: TextTokenizer) -> None:
    assert numbers_of(tokenizer, Example("a", {"mood": "good"})).labels == {"mood": 1}


def test_tags_are_o_and_two_for_each_type() -> None:
    assert tags_of(("a", "b")) == ["O", "B-a", "I-a", "B-b", "I-b"]


def test_a_tag_stands_at_the_first_piece_of_its_word(tokenizer: TextTokenizer) -> None:
    found = numbers_of(tokenizer, Example("Corvane falls", spans=(Span(0, 7, "company"),), tagging="entity"))

    assert found.tags is not None
    # [CLS], the pieces of Corvane, falls, [SEP]
    pieces = len(found.tags) - 3
    assert pieces > 1
    assert found.tags.tolist() == [IGNORED, 1, *[IGNORED] * (pieces - 1), 0, IGNORED]


def test_types_that_the_file_does_not_mark_stay_open(tokenizer: TextTokenizer) -> None:
    some = numbers_of(tokenizer, Example("a", tagging="entity", annotated=("company",)))
    whole = numbers_of(tokenizer, Example("a", tagging="entity"))

    assert some.open_tags is not None and whole.open_tags is not None
    assert some.open_tags.tolist() == [1, 0, 0, 1, 1]
    assert whole.open_tags.tolist() == [1, 0, 0, 0, 0]


def test_a_span_that_truncation_cut_off_is_left_out(tokenizer: TextTokenizer) -> None:
    text = "one two three four five six seven Acme"
    spans = (Span(0, 3, "company", "good"), Span(text.index("Acme"), len(text), "company", "bad"))

    found = numbers_of(tokenizer, Example(text, spans=spans, tagging="entity", judging="said"))

    assert found.spans == [(0, 1, 1)]
    assert found.tags is not None
    assert np.count_nonzero(found.tags > 0) == 1
