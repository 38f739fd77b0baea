"""Temperatures, thresholds and banks on data whose answer is known."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")

from models.calibrate import (
    bank,
    confusion,
    fit_temperature,
    none_below,
    packed,
    threshold,
    wilson,
)
from models.interpret import familiarity, nearest, softmax

pytestmark = pytest.mark.train


def drawn(logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A label for each row, by its chances."""
    return np.array([generator.choice(logits.shape[1], p=row) for row in softmax(logits).astype(float)])


def test_the_temperature_of_logits_that_are_too_sure_is_found() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4_000, 3))

    assert fit_temperature((logits * 2.5).astype(np.float32), drawn(logits, generator)) == pytest.approx(
        2.5, rel=0.1
    )


def test_the_bound_is_that_of_wilson() -> None:
    assert wilson(np.array([0.9, 1.0]), np.array([100, 30])) == pytest.approx([0.8396, 0.9173], abs=1e-3)


def two_halves(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two labels: sure and right in the first half, hardly sure and a toss-up in the second."""
    chance = np.concatenate([np.linspace(0.99, 0.9, count // 2), np.linspace(0.7, 0.55, count // 2)])
    logits = np.stack([np.log(chance), np.log(1 - chance)], axis=1).astype(np.float32)
    labels = np.concatenate([np.zeros(count // 2, int), np.arange(count // 2) % 2])
    return logits, labels


def test_the_threshold_is_the_lowest_whose_bound_reaches_the_target() -> None:
    found = threshold(*two_halves(), 1.0, 0.95)

    assert 0.65 < found.probability < 0.9
    assert found.precision >= 0.95
    assert 0.5 < found.coverage < 0.55


def test_nothing_is_unsure_where_all_answers_reach_the_target() -> None:
    assert threshold(*two_halves(), 1.0, 0.5).probability == 0.0


def test_a_target_out_of_reach_gives_the_threshold_of_the_best_bound() -> None:
    found = threshold(*two_halves(), 1.0, 0.999)

    assert found.precision < 0.999
    assert found.coverage == pytest.approx(0.5, abs=0.01)


def test_a_handful_of_answers_is_no_evidence() -> None:
    logits, labels = two_halves()
    labels[5:200] = 1  # only the five surest are right

    assert threshold(logits, labels, 1.0, 0.9).precision < 0.9


def test_confusion_counts_true_by_found() -> None:
    logits = np.array([[2, 1], [2, 1], [1, 2]], np.float32)

    assert confusion(logits, np.array([0, 1, 1])) == ((1, 0), (1, 1))


def vectors(count: int, seed: int) -> np.ndarray:
    drawn_ = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return drawn_ / np.linalg.norm(drawn_, axis=1, keepdims=True)


def test_labels_share_a_bank_equally_and_a_small_one_gives_all_it_has() -> None:
    known = vectors(103, 0)
    labels = [0] * 100 + [1] * 3
    chosen = bank(known, labels, size=20)

    assert len(chosen) == 10 + 3
    assert all(any(np.array_equal(each, row) for row in known) for each in chosen)


def test_a_bank_spreads_over_its_texts() -> None:
    known = vectors(400, 0)
    spread = nearest(known, bank(known, [0] * 400, size=40)).min()

    assert spread > nearest(known, known[:40]).min()


def test_packing_keeps_directions() -> None:
    known = vectors(50, 0)
    again = packed(known).astype(np.float32)
    again /= np.linalg.norm(again, axis=1, keepdims=True)

    assert (again * known).sum(axis=1).min() > 0.999


def test_two_percent_of_known_texts_may_be_called_none() -> None:
    familiar = familiarity(vectors(1_000, 1), vectors(200, 0), np.full(1_000, 0.5))
    limit = none_below(familiar)

    assert (familiar < limit).mean() == pytest.approx(0.02, abs=0.002)
