"""Figures of how right answers are, with intervals: from arrays, not from a model. N texts, L labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

from models.interpret import softmax
from models.predict import Pairs, entity_counts

# Resamples of a bootstrap interval, and the share of them that it covers.
RESAMPLES = 1000
COVERED = 0.95
# Bins of equal width of the calibration error.
BINS = 15
# What an answer's precision shall be at the coverage that is reported.
PRECISION = 0.95

Numbers = NDArray[np.int64]
Metric = Callable[[Numbers], float]


@dataclass(frozen=True, slots=True)
class Scored:
    """True labels [N], -1 for none of them, and chances [N, L] of the texts that a head was asked about."""

    true: Numbers
    chances: NDArray[np.float32]

    @property
    def found(self) -> Numbers:
        best: Numbers = self.chances.argmax(axis=1)
        return best


def scored(logits: NDArray[np.float32], true: Numbers, temperature: float) -> Scored:
    """Chances from logits [N, L] and a temperature."""
    return Scored(true, softmax(logits / temperature))


def label_figures(answers: Scored, labels: Sequence[str]) -> dict[str, Any]:
    """n, accuracy, macro_f1, weighted_f1, per_class, ece, coverage_at_95, confusion and bootstrap intervals.

    Only texts that have one of the labels count. Labels that occur on neither side do not count for macro_f1.
    """
    known = answers.true >= 0
    mine = Scored(answers.true[known], answers.chances[known])
    true, found = mine.true, mine.found
    if not len(true):
        return {"n": 0}
    return {
        "n": len(true),
        "accuracy": _round((true == found).mean()),
        "macro_f1": macro_f1(true, found),
        "weighted_f1": _f1(true, found, "weighted"),
        "ece": ece(mine),
        "coverage_at_95": coverage(mine, PRECISION),
        "interval": {
            "accuracy": interval(len(true), lambda chosen: float((true[chosen] == found[chosen]).mean())),
            "macro_f1": interval(
                len(true), lambda chosen: fast_macro_f1(true[chosen], found[chosen], len(labels))
            ),
        },
        "per_class": per_class(true, found, labels),
        "confusion": confusion(true, found, len(labels)),
    }


def entity_figures(pairs: Pairs, types: Sequence[str]) -> dict[str, Any]:
    """n texts, entity_f1 of whole spans with its interval, precision, recall, and the same by type."""
    right, true, found = entity_counts(pairs, types)
    each = np.array([_counts(pair, types) for pair in pairs], np.float64).reshape(-1, 3)

    def f1(chosen: Numbers) -> float:
        sums = each[chosen].sum(axis=0)
        return float(2 * sums[0] / max(1.0, sums[1] + sums[2]))

    return {
        "n": len(pairs),
        "entities": true.total(),
        "entity_f1": _round(2 * right.total() / max(1, true.total() + found.total())),
        "precision": _round(right.total() / max(1, found.total())),
        "recall": _round(right.total() / max(1, true.total())),
        "interval": {"entity_f1": interval(len(pairs), f1)},
        "per_class": {
            kind: {
                "f1": _round(2 * right[kind] / max(1, true[kind] + found[kind])),
                "precision": _round(right[kind] / max(1, found[kind])),
                "recall": _round(right[kind] / max(1, true[kind])),
                "n": true[kind],
            }
            for kind in types
            if true[kind] or found[kind]
        },
    }


def per_class(true: Numbers, found: Numbers, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of texts of each label that occurs."""
    occurring = sorted(set(true.tolist()))
    precision, recall, f1, count = precision_recall_fscore_support(
        true, found, labels=occurring, average=None, zero_division=0.0
    )
    return {
        labels[number]: {
            "f1": _round(f1[place]),
            "precision": _round(precision[place]),
            "recall": _round(recall[place]),
            "n": int(count[place]),
        }
        for place, number in enumerate(occurring)
    }


def macro_f1(true: Numbers, found: Numbers) -> float:
    """Mean of the labels' F1; labels that do not occur on either side do not count."""
    return _f1(true, found, "macro")


def confusion(true: Numbers, found: Numbers, size: int) -> list[list[int]]:
    """How often each true label [row] was called which [column]."""
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (true, found), 1)
    rows: list[list[int]] = counts.tolist()
    return rows


def ece(answers: Scored) -> float:
    """Expected calibration error (Naeini et al. 2015) of the label named, 15 bins of equal width."""
    chance = answers.chances.max(axis=1)
    right = answers.true == answers.found
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == each].mean() - chance[bins == each].mean()) * (bins == each).mean() for each in set(bins)
    ]
    return _round(sum(gaps))


def coverage(answers: Scored, precision: float) -> float:
    """The largest share of texts that can be kept, surest first, with at least this precision among them."""
    order = np.argsort(-answers.chances.max(axis=1), kind="stable")
    right = (answers.true == answers.found)[order]
    enough = np.flatnonzero(np.cumsum(right) / np.arange(1, len(right) + 1) >= precision)
    return _round((enough[-1] + 1) / len(right)) if len(enough) else 0.0


def auroc_none(similar: NDArray[np.float32], true: Numbers) -> float | None:
    """How well a low similarity tells texts of no label (true is -1) from the others; None without both."""
    none = true < 0
    return _round(roc_auc_score(none, -similar)) if none.any() and not none.all() else None


def interval(count: int, metric: Metric, seed: int = 0) -> list[float]:
    """95 % percentile bootstrap (Efron 1979) of a metric over texts drawn with replacement: [low, high]."""
    draw = np.random.default_rng(seed)
    values = [metric(draw.integers(0, count, count)) for _ in range(RESAMPLES)] if count else [0.0]
    low, high = np.quantile(values, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return [_round(low), _round(high)]


def fast_macro_f1(true: Numbers, found: Numbers, size: int) -> float:
    """As `macro_f1`, a hundred times as fast."""
    right = np.bincount(true[true == found], minlength=size)
    total = np.bincount(true, minlength=size) + np.bincount(found, minlength=size)
    return float((2 * right[total > 0] / total[total > 0]).mean())


def _counts(pair: tuple[list[Any], list[Any]], types: Sequence[str]) -> tuple[int, int, int]:
    right, true, found = entity_counts([pair], types)
    return right.total(), true.total(), found.total()


def _f1(true: Numbers, found: Numbers, average: str) -> float:
    return _round(f1_score(true, found, average=average, zero_division=0.0))


def _round(value: Any) -> float:
    return round(float(value), 4)
