"""Makes probabilities mean what they say, and finds below which nothing should be said. N texts, L labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.interpret import softmax

# Vectors a bank holds at most: one megabyte at 384 numbers of one byte.
BANK_SIZE = 2600
# Share of texts of known labels that a bank may fail to recognise.
MISSED = 0.02
# One-sided 95 % bound of a normal distribution.
_BOUND = 1.645
# Kept answers below which no precision is claimed.
_LEAST_KEPT = 30


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature of least log-loss (Guo et al. 2017), among 401 from 0.1 to 10 in equal ratios.

    Args:
        logits: [N, L] of texts that neither trained nor test the head.
        labels: [N].
    """
    given, true = torch.from_numpy(logits), torch.from_numpy(labels)
    temperatures = torch.logspace(-1, 1, 401)
    losses = [float(_loss(given / float(each), true)) for each in temperatures]
    return round(float(temperatures[losses.index(min(losses))]), 4)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A probability from which answers are kept, the share that is kept, and the lower bound of its precision."""

    probability: float
    coverage: float
    precision: float


def threshold(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, target: float
) -> Threshold:
    """The lowest probability above which the lower bound (Wilson 1927, 95 %) of the precision reaches a target.

    Where no probability reaches it, the one with the highest bound.
    """
    chances = softmax(logits / temperature)
    right = (chances.argmax(axis=1) == labels)[np.argsort(-chances.max(axis=1), kind="stable")]
    sorted_chances = np.sort(chances.max(axis=1))[::-1]
    kept = np.arange(1, len(right) + 1)
    bounds = wilson(np.cumsum(right) / kept, kept)
    enough = np.flatnonzero((bounds >= target) & (kept >= _LEAST_KEPT))
    least = min(_LEAST_KEPT, len(kept)) - 1
    last = int(enough[-1]) if len(enough) else least + int(bounds[least:].argmax())
    probability = 0.0 if last == len(right) - 1 else round(float(sorted_chances[last]), 4)
    return Threshold(probability, round((last + 1) / len(right), 4), round(float(bounds[last]), 4))


def wilson(share: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower bound of a share seen in `count` cases (Wilson 1927), one-sided 95 %."""
    square = _BOUND**2
    middle = share + square / (2 * count)
    spread = _BOUND * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    bound: NDArray[np.float64] = (middle - spread) / (1 + square / count)
    return bound


def confusion(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """How often each true label [row] was called which [column]."""
    size = logits.shape[1]
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    return tuple(tuple(row) for row in counts.tolist())


def bank(vectors: NDArray[np.float32], labels: Sequence[int], size: int = BANK_SIZE) -> NDArray[np.float32]:
    """Vectors that stand for all of them: of each label the one in its middle, then always the farthest.

    Greedy k-centre (Gonzalez 1985) within each label; labels share `size` equally.

    Args:
        vectors: normalised [N, D].
        labels: the label of each.
    """
    numbers = np.asarray(labels)
    each = max(1, size // max(1, len(set(labels))))
    chosen = [_centres(vectors[numbers == label], each) for label in sorted(set(labels))]
    return np.concatenate(chosen)


def _centres(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if len(vectors) <= count:
        return vectors
    first = int((vectors @ vectors.mean(axis=0)).argmax())
    chosen = [first]
    closest = vectors @ vectors[first]
    while len(chosen) < count:
        chosen.append(int(closest.argmin()))
        closest = np.maximum(closest, vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def packed(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Normalised vectors as bytes; only their directions count."""
    scaled: NDArray[np.int8] = np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True))).astype(
        np.int8
    )
    return scaled


def none_below(familiar: NDArray[np.float64], missed: float = MISSED) -> float:
    """The familiarity (`models.interpret.familiarity`) below which a text is none of the labels.

    Args:
        familiar: [N] of texts of known labels that the bank does not hold.
        missed: share of such texts that may be called none.
    """
    return round(float(np.quantile(familiar, missed)), 4)
