"""Bootstrap intervals of every figure, and of the distance of two models on the same rows. N texts, L labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.figures import BINS, COVERED, PRECISION, RESAMPLES, Numbers, Scored, fast_macro_f1, interval
from models.predict import Pairs, entity_counts


def label_intervals(answers: Scored, size: int) -> dict[str, list[float]]:
    """95 % intervals of accuracy, macro_f1, weighted_f1, ece and coverage_at_95."""
    count = len(answers.true)
    chance = answers.chances.max(axis=1)
    order = np.argsort(-chance, kind="stable")
    # Texts by falling chance, so that a sorted draw is one too.
    true, found, chance = answers.true[order], answers.found[order], chance[order]
    right = true == found
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)

    def ece(chosen: Numbers) -> float:
        gaps = np.bincount(bins[chosen], right[chosen] - chance[chosen].astype(float), BINS)
        return float(np.abs(gaps).sum() / count)

    def covered(chosen: Numbers) -> float:
        kept = np.cumsum(right[np.sort(chosen)]) / np.arange(1, count + 1)
        enough = np.flatnonzero(kept >= PRECISION)
        return float((enough[-1] + 1) / count) if len(enough) else 0.0

    return {
        "accuracy": interval(count, lambda chosen: float(right[chosen].mean())),
        "macro_f1": interval(count, lambda chosen: fast_macro_f1(true[chosen], found[chosen], size)),
        "weighted_f1": interval(count, lambda chosen: _weighted_f1(true[chosen], found[chosen], size)),
        "ece": interval(count, ece),
        "coverage_at_95": interval(count, covered),
    }


def class_intervals(true: Numbers, found: Numbers, size: int) -> list[list[float]]:
    """95 % interval of each label's F1: [L][low, high]."""
    return _quantiles([_each_f1(true[chosen], found[chosen], size) for chosen in _draws(len(true))])


def difference(true: Numbers, one: Numbers, other: Numbers, size: int) -> dict[str, Any]:
    """How much better `one` is than `other` on the same texts, with paired 95 % intervals."""

    def accuracy(chosen: Numbers) -> float:
        return float((one[chosen] == true[chosen]).mean() - (other[chosen] == true[chosen]).mean())

    def macro(chosen: Numbers) -> float:
        return fast_macro_f1(true[chosen], one[chosen], size) - fast_macro_f1(true[chosen], other[chosen], size)

    every = np.arange(len(true))
    return {
        "accuracy": round(accuracy(every), 4),
        "macro_f1": round(macro(every), 4),
        "interval": {"accuracy": interval(len(true), accuracy), "macro_f1": interval(len(true), macro)},
    }


def entity_intervals(pairs: Pairs, types: Sequence[str]) -> dict[str, Any]:
    """95 % intervals over texts of entity_f1, precision, recall, and under `per_class` of each type's F1."""
    counts = np.array([_counts(pair, types) for pair in pairs], np.int64).reshape(len(pairs), 3, len(types))
    sums = [counts[chosen].sum(axis=0) for chosen in _draws(len(pairs))]  # each [3, types]: right, true, found
    whole = [_prf(each.sum(axis=1)) for each in sums]
    by_type = _quantiles([2 * each[0] / np.maximum(1, each[1] + each[2]) for each in sums])
    f1, precision, recall = _quantiles(whole)
    return {
        "entity_f1": f1,
        "precision": precision,
        "recall": recall,
        "per_class": dict(zip(types, by_type, strict=True)),
    }


def auroc(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of a score that is high for the positive; 0.5 where one side is empty."""
    _, ranks = np.unique(scores, return_inverse=True)
    size = int(ranks.max(initial=0)) + 1
    others, mine = np.bincount(ranks[~positive], minlength=size), np.bincount(ranks[positive], minlength=size)
    pairs = others.sum() * mine.sum()
    below = np.cumsum(others) - others / 2
    return float((mine * below).sum() / pairs) if pairs else 0.5


def auroc_interval(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> list[float]:
    """95 % interval of `auroc`."""
    return interval(len(scores), lambda chosen: auroc(scores[chosen], positive[chosen]))


def _draws(count: int) -> Iterator[Numbers]:
    draw = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield draw.integers(0, count, count)


def _quantiles(values: Sequence[Any]) -> list[list[float]]:
    bounds = np.quantile(np.asarray(values, float), [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0)
    return [[round(float(low), 4), round(float(high), 4)] for low, high in bounds.T]


def _weighted_f1(true: Numbers, found: Numbers, size: int) -> float:
    return float((_each_f1(true, found, size) * np.bincount(true, minlength=size)).sum() / len(true))


def _each_f1(true: Numbers, found: Numbers, size: int) -> NDArray[np.float64]:
    right = np.bincount(true[true == found], minlength=size)
    total = np.bincount(true, minlength=size) + np.bincount(found, minlength=size)
    f1: NDArray[np.float64] = 2 * right / np.maximum(1, total)
    return f1


def _prf(sums: NDArray[np.int64]) -> tuple[float, float, float]:
    right, true, found = sums.tolist()
    return 2 * right / max(1, true + found), right / max(1, found), right / max(1, true)


def _counts(pair: tuple[list[Any], list[Any]], types: Sequence[str]) -> list[list[int]]:
    return [[counter[kind] for kind in types] for counter in entity_counts([pair], types)]
