"""Which texts make up an epoch, in which batches: files mixed, lengths alike, the same for the same seed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.recipe import Training
from models.tokens import cut_by_padded_tokens

# Texts within which lengths are sorted, in batches' worth; a whole epoch sorted would repeat the same neighbours.
_POOL_BATCHES = 50

Positions = NDArray[np.int64]


def plan(lengths: NDArray[np.int64], files: Sequence[int], training: Training, epoch: int) -> list[Positions]:
    """The batches of one epoch, as positions of texts.

    Args:
        lengths: tokens of each text [N]; the texts of one file stand together.
        files: number of texts of each file.
        training: batch size, mixing and seed.
        epoch: from 0.
    """
    draw = np.random.default_rng((training.seed, epoch))
    chosen = np.concatenate(_drawn(files, training.mixing, draw))
    draw.shuffle(chosen)
    average = max(1.0, float(lengths[chosen].mean()))
    pool = max(1, int(_POOL_BATCHES * training.batch_tokens / average))
    batches: list[Positions] = []
    for start in range(0, len(chosen), pool):
        part = chosen[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first:last] for first, last in cut_by_padded_tokens(lengths[part], training.batch_tokens)]
    draw.shuffle(batches)
    return batches


def _drawn(files: Sequence[int], mixing: float, draw: np.random.Generator) -> list[Positions]:
    """Positions of each file's share of an epoch; a small file is gone through more than once."""
    sizes = np.asarray(files, np.float64)
    shares = sizes**mixing * (sizes > 0)
    wanted = np.rint(sizes.sum() * shares / shares.sum()).astype(int)
    first = np.concatenate([[0], np.cumsum(files)[:-1]]).astype(int)
    found: list[Positions] = []
    for start, size, count in zip(first, files, wanted, strict=True):
        rounds = [draw.permutation(size) for _ in range(-(-int(count) // max(1, size)))]
        found.append(start + np.concatenate(rounds)[:count] if rounds else np.empty(0, np.int64))
    return found
