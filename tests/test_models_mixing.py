"""Which texts make up an epoch, and in which batches."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.mixing import plan
from models.recipe import Training

LENGTHS = np.random.default_rng(0).integers(3, 60, 1_000)
FILES = (900, 100)


def batches(epoch: int = 0, **training: Any) -> list[np.ndarray]:
    return plan(LENGTHS, FILES, Training(**training), epoch)


def times_drawn(found: list[np.ndarray]) -> Counter[int]:
    return Counter(np.concatenate(found).tolist())


def test_the_same_seed_gives_the_same_plan() -> None:
    one, other = batches(seed=5), batches(seed=5)

    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("changes", [{"seed": 6}, {"seed": 5, "epoch": 1}])
def test_another_seed_or_epoch_gives_another_plan(changes: dict[str, int]) -> None:
    one, other = batches(seed=5), batches(**changes)

    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=False))


def test_batches_stay_within_the_padded_tokens() -> None:
    for batch in batches(batch_tokens=256):
        assert len(batch) == 1 or len(batch) * LENGTHS[batch].max() <= 256


def test_with_power_1_every_text_is_there_once() -> None:
    assert times_drawn(batches(mixing=1.0)) == Counter(range(1_000))


def test_files_are_drawn_by_the_power_of_their_rows() -> None:
    found = times_drawn(batches(mixing=0.5))
    small = sum(count for text, count in found.items() if text >= FILES[0])

    # Roots of 900 and 100: three to one.
    assert (found.total(), small) == (1_000, 250)


def test_a_small_file_is_gone_through_evenly() -> None:
    found = times_drawn(batches(mixing=0.5))

    assert {found[text] for text in range(FILES[0], 1_000)} == {2, 3}


def test_with_power_0_files_weigh_the_same() -> None:
    found = times_drawn(batches(mixing=0.0))

    assert sum(count for text, count in found.items() if text >= FILES[0]) == 500


def test_a_file_without_rows_is_passed_over() -> None:
    found = plan(LENGTHS, (900, 0, 100), Training(mixing=0.5), 0)

    assert times_drawn(found).total() == 1_000


def test_neighbours_in_a_batch_are_of_like_length() -> None:
    spreads = [np.ptp(LENGTHS[batch]) for batch in batches(batch_tokens=256)]

    assert np.mean(spreads) < 5
