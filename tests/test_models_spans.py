"""Where words stand to a span."""

import numpy as np

from models.spans import RELATIONS, relations, words_within

NUMBERS = np.array([[-1, *range(60), -1]], np.int32)


def test_no_word_is_0_and_words_of_the_span_are_1() -> None:
    found = relations(NUMBERS, [0], [(4, 6)])[0]

    assert (found[0], found[-1]) == (0, 0)
    assert np.flatnonzero(found == 1).tolist() == [5, 6]


def test_buckets_grow_with_the_distance_and_differ_by_side() -> None:
    found = relations(NUMBERS, [0], [(30, 31)])[0, 1:-1]
    before, after = found[:30][::-1].tolist(), found[31:].tolist()

    # Distances 1, 2, 3-4, 5-8, 9-16 and more.
    expected = [0, 1, 2, 2, *[3] * 4, *[4] * 8, *[5] * 13]
    assert before == [2 + each for each in expected] + [7]
    assert after[:29] == [8 + each for each in expected]


def test_every_relation_is_within_the_number_of_relations() -> None:
    found = relations(NUMBERS, [0, 0], [(0, 1), (59, 60)])

    assert (found.min(), found.max()) == (0, RELATIONS - 1)


def test_pieces_of_one_word_share_a_relation() -> None:
    assert relations(np.array([[-1, 0, 0, 1, 1, -1]], np.int32), [0], [(1, 2)]).tolist() == [[0, 2, 2, 1, 1, 0]]


def test_each_span_is_seen_in_its_own_text() -> None:
    numbers = np.array([[-1, 0, 1, -1], [-1, 0, -1, -1]], np.int32)

    assert relations(numbers, [1, 0], [(0, 1), (1, 2)]).tolist() == [[0, 1, 0, 0], [0, 2, 1, 0]]


def test_words_within_are_those_that_are_touched() -> None:
    places = [(0, 4), (5, 9), (10, 12)]

    assert words_within(places, 5, 12) == (1, 3)
    assert words_within(places, 3, 6) == (0, 2)
    assert words_within(places, 4, 5) is None
