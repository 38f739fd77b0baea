"""Tokenising, words, their shapes, and batch cutting."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import TOKENIZER, find_bundle
from models.text import normalise, word_shape
from models.tokens import TextTokenizer, cut_by_padded_tokens, feed, word_shapes, words_of
from schemas.errors import ScoringError


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(find_bundle("") / TOKENIZER, 128)


@given(st.lists(st.integers(1, 128), max_size=200).map(sorted), st.integers(1, 2_000))
def test_batches_hold_every_text_once_and_stay_within_the_padded_tokens(lengths: list[int], limit: int) -> None:
    cuts = cut_by_padded_tokens(np.array(lengths, np.int64), limit)
    assert [position for start, stop in cuts for position in range(start, stop)] == list(range(len(lengths)))
    for start, stop in cuts:
        assert stop - start == 1 or (stop - start) * lengths[stop - 1] <= limit
    for (start, stop), _ in pairwise(cuts):
        assert (stop - start + 1) * lengths[stop] > limit


def test_texts_are_sorted_by_length_and_know_their_places(tokenizer: TextTokenizer) -> None:
    texts = [" ".join(["word"] * count) for count in (9, 1, 30, 2, 30, 5)]
    batches = tokenizer.batches(texts, batch_tokens=40)
    positions = [position for batch in batches for position in batch.positions.tolist()]
    assert positions == [1, 3, 5, 0, 2, 4]
    for batch in batches:
        assert batch.texts == [texts[position] for position in batch.positions]
        assert batch.attention_mask.sum(axis=1).tolist() == [len(text.split()) + 2 for text in batch.texts]


def test_words_are_all_but_cls_sep_and_padding(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["Beyond", "Meat falls hard"], batch_tokens=1_000)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.word_mask.tolist() == [[0, 1, 0, 0, 0], [0, 1, 1, 1, 0]]


def test_pieces_of_one_word_share_its_number(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["$BYND falls"], batch_tokens=1_000)
    assert batch.word_numbers.tolist() == [[-1, 0, 1, 1, 2, -1]]


def test_a_special_token_spelled_in_a_text_is_words(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["a [SEP] b"], batch_tokens=1_000)
    assert (batch.input_ids == 102).sum() == 1
    assert batch.word_mask.sum() == 5


def test_an_empty_text_has_no_words(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches([""], batch_tokens=1_000)
    assert batch.input_ids.shape == (1, 2)
    assert batch.word_mask.sum() == 0


@pytest.mark.parametrize(
    ("text", "truncated"), [("word " * 126, False), ("word " * 127, True), ("x" * 9_000, True)]
)
def test_a_text_that_was_cut_says_so(tokenizer: TextTokenizer, text: str, truncated: bool) -> None:
    (batch,) = tokenizer.batches([normalise(text)], batch_tokens=1_000)
    assert batch.truncated == [truncated]
    assert batch.input_ids.shape[1] <= 128


def test_a_lone_surrogate_is_a_scoring_error(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ScoringError, match="Unicode"):
        tokenizer.batches(["fine", "\ud800"], batch_tokens=1_000)


def test_a_word_lies_where_all_of_its_pieces_lie(tokenizer: TextTokenizer) -> None:
    text = "Corvane's $BYND"
    (batch,) = tokenizer.batches([text], batch_tokens=1_000)
    found = [text[start:end] for start, end in words_of(batch.encodings[0])]
    assert found == ["Corvane", "'", "s", "$", "BYND"]


def test_every_piece_has_the_shape_of_its_word_and_0_is_no_word(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["IBM", "Corvane's up"], batch_tokens=1_000)
    shapes = word_shapes(batch)
    assert (shapes > 0).tolist() == (batch.word_mask > 0).tolist()
    numbers = batch.word_numbers[1]
    expected = [("Corvane", False), ("'", True), ("s", True), ("up", False)]
    assert [set(shapes[1, numbers == n]) for n in range(4)] == [{word_shape(*each)} for each in expected]


def test_a_graph_is_fed_what_it_names(tokenizer: TextTokenizer) -> None:
    (batch,) = tokenizer.batches(["IBM"], batch_tokens=1_000)
    assert list(feed(batch, ["word_mask", "input_ids"])) == ["word_mask", "input_ids"]
    assert feed(batch, ["word_shapes"])["word_shapes"].tolist() == word_shapes(batch).tolist()
