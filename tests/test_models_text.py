"""What becomes of a text before it is tokenised, and of places in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import NORMALISATION, SHAPES, normalise, normalise_spans, require_known, word_shape
from schemas.errors import BundleError

TEXTS = st.text(alphabet=st.sampled_from("htps:/w. ax\n\u00a0\x1c"))


def test_urls_go_and_white_space_is_folded() -> None:
    assert normalise(" Beyond\n Meat https://t.co/x1  WWW.beyond.com/a cuts\u00a0it ") == "Beyond Meat cuts it"


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TEXTS)
def test_normalising_with_spans_gives_the_same_text(text: str) -> None:
    assert normalise_spans(text, [])[0] == normalise(text)


def test_a_span_keeps_its_words_when_urls_and_white_space_before_it_go() -> None:
    text = "  See https://t.co/x1\n\nBeyond   Meat  fall"
    start = text.index("Beyond")

    clean, (place,) = normalise_spans(text, [(start, text.index("  fall"))])

    assert place is not None
    assert clean[slice(*place)] == "Beyond Meat"


@given(
    st.lists(st.sampled_from(["Acme", "https://t.co/a", "falls", "www.x.y"]), min_size=1, max_size=6), st.data()
)
def test_a_word_that_stays_is_found_where_it_went(words: list[str], data: st.DataObject) -> None:
    gaps = [data.draw(st.sampled_from([" ", "\n ", "   "])) for _ in words]
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    starts = [
        sum(len(word) + len(gap) for word, gap in zip(words[:n], gaps[:n], strict=True)) for n in range(len(words))
    ]

    clean, places = normalise_spans(text, [(at, at + len(word)) for at, word in zip(starts, words, strict=True)])

    for word, place in zip(words, places, strict=True):
        assert (None if place is None else clean[slice(*place)]) == (word if normalise(word) else None)


def test_a_span_of_which_nothing_is_left_is_none() -> None:
    assert normalise_spans("see https://t.co/x", [(4, 18)])[1] == [None]


def test_an_unknown_normalisation_is_refused_by_name() -> None:
    require_known(NORMALISATION, "here")
    with pytest.raises(BundleError, match="lower-case"):
        require_known(("lower-case",), "here")


def test_shapes_tell_case_digits_and_symbols_apart() -> None:
    words = ["shares", "Apple", "IBM", "I", "iPhone", "2024", "Q3", "$"]

    assert len({word_shape(word, False) for word in words}) == len(words)


def test_a_word_that_is_glued_to_the_one_before_has_a_shape_of_its_own() -> None:
    shapes = {word_shape(word, glued) for word in ("a", "A", "1", "$", "日") for glued in (True, False)}

    assert len(shapes) == 10
    assert all(0 < shape < SHAPES for shape in shapes)
