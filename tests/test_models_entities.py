"""From tags to entities and back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import TOKENIZER, find_bundle
from models.data import Span, spans_of, tagged_words
from models.entities import find_entities, runs
from models.tokens import TextTokenizer

TAGS = ("O", "B-company", "I-company", "B-person", "I-person")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-a I-a O", [(1, 3, "a")]),
        ("B-a B-a I-a", [(0, 1, "a"), (1, 3, "a")]),
        ("I-a I-a", [(0, 2, "a")]),
        ("B-a I-b", [(0, 1, "a"), (1, 2, "b")]),
        ("O I-a O I-a", [(1, 2, "a"), (3, 4, "a")]),
        ("O", []),
        ("", []),
    ],
)
def test_runs_are_those_of_the_conll_evaluation(tags: str, expected: list[tuple[int, int, str]]) -> None:
    assert runs(tags.split()) == expected


@given(st.data())
def test_spans_survive_the_way_through_tags(data: st.DataObject) -> None:
    places = [(at * 5, at * 5 + 4) for at in range(data.draw(st.integers(1, 8)))]
    edges = sorted(data.draw(st.sets(st.integers(0, len(places)))))
    chosen = [(first, last) for first, last in pairwise(edges) if data.draw(st.booleans())]
    spans = [Span(places[a][0], places[b - 1][1], data.draw(st.sampled_from("xy"))) for a, b in chosen]

    assert spans_of(places, tagged_words(places, spans)) == spans


def test_of_spans_that_overlap_the_longest_holds() -> None:
    places = [(0, 4), (5, 9), (10, 14)]

    assert tagged_words(places, [Span(0, 4, "a"), Span(0, 9, "b"), Span(10, 14, "a")]) == ["B-b", "I-b", "B-a"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(find_bundle("") / TOKENIZER, 128)


def chances(batch_shape: tuple[int, int], tags: dict[tuple[int, int], tuple[str, float]]) -> np.ndarray:
    """[B, T, L]: O everywhere but at the (row, token) that `tags` gives."""
    found = np.zeros((*batch_shape, len(TAGS)), np.float32)
    found[..., 0] = 1.0
    for (row, token), (tag, chance) in tags.items():
        found[row, token] = 0.0
        found[row, token, TAGS.index(tag)] = chance
    return found


def test_an_entity_is_judged_by_the_first_token_of_each_word(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["Corvane Steel falls"], 512)
    first = [batch.word_numbers[0].tolist().index(number) for number in (0, 1)]
    said = {(0, first[0]): ("B-company", 0.9), (0, first[1]): ("I-company", 0.7)}
    # What a later piece says does not count.
    said |= {(0, at): ("B-person", 1.0) for at in range(first[0] + 1, first[1])}

    (found,) = find_entities(batch, chances(batch.input_ids.shape, said), TAGS)

    assert found[:4] == (0, 0, 2, "company")
    assert found.probability == pytest.approx(0.8)


def test_entities_come_by_text_and_place_and_never_from_padding(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["ok", "we met Ann and Bob"], 512)
    everywhere = {(row, at): ("B-person", 0.5) for row in (0, 1) for at in range(batch.input_ids.shape[1])}

    found = find_entities(batch, chances(batch.input_ids.shape, everywhere), TAGS)

    assert [each[:3] for each in found] == [(0, 0, 1), *[(1, at, at + 1) for at in range(5)]]
