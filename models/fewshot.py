"""How good vectors are for labels nobody trained them on: ten examples a label, then the rest. N texts, D wide."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.baseline import of_vectors, of_words
from models.figures import Numbers, interval
from schemas.errors import UsageError

SHOTS = 10
SEEDS = (0, 1, 2, 3, 4)

Draw = tuple[Numbers, Numbers]
# How often each text was called rightly, and how often it was asked: [N] each.
Tally = tuple[NDArray[np.int64], NDArray[np.int64]]
Vectors = NDArray[np.float32]


def draws(true: Numbers) -> list[Draw]:
    """For each seed the positions of ten texts a label, and of all the others; labels without a rest are left out.

    Raises:
        UsageError: fewer than two labels have more than ten texts.
    """
    labels = _labels(true)
    if len(labels) < 2:
        raise UsageError(
            f"The file needs at least two labels of more than {SHOTS} texts each to draw {SHOTS} from."
        )
    found: list[Draw] = []
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        mixed = [generator.permutation(np.flatnonzero(true == label)) for label in labels]
        found.append(
            (np.concatenate([m[:SHOTS] for m in mixed]), np.sort(np.concatenate([m[SHOTS:] for m in mixed])))
        )
    return found


def enough(true: Numbers) -> bool:
    """Whether `draws` finds what it needs."""
    return len(_labels(true)) >= 2


def of_prototypes(vectors: Vectors, true: Numbers, drawn: Sequence[Draw]) -> Tally:
    """By the label whose mean of ten vectors is nearest by cosine (Snell et al. 2017)."""

    def ask(shots: Numbers, rest: Numbers) -> Numbers:
        labels = np.unique(true[shots])
        means = np.stack([vectors[shots[true[shots] == label]].mean(axis=0) for label in labels])  # [L, D]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        named: Numbers = labels[(vectors[rest] @ means.T).argmax(axis=1)]
        return named

    return _tally(true, drawn, ask)


def of_machine(vectors: Vectors, true: Numbers, drawn: Sequence[Draw]) -> Tally:
    """By a linear machine, C = 1."""
    return _tally(
        true, drawn, lambda shots, rest: of_vectors(1.0).fit(vectors[shots], true[shots]).predict(vectors[rest])
    )


def of_texts(texts: Sequence[str], true: Numbers, drawn: Sequence[Draw]) -> Tally:
    """By TF-IDF under a linear machine, C = 1, on the same ten texts."""

    def ask(shots: Numbers, rest: Numbers) -> Numbers:
        model = of_words(1.0).fit([texts[each] for each in shots], true[shots])
        found: Numbers = model.predict([texts[each] for each in rest])
        return found

    return _tally(true, drawn, ask)


def figures(tally: Tally) -> dict[str, Any]:
    """accuracy over all seeds, with an interval over texts."""
    return {"accuracy": _share(*tally), "interval": {"accuracy": _interval(*tally)}}


def compared(one: Tally, other: Tally) -> dict[str, Any]:
    """How much better `one` is on the same draws, with a paired interval over texts."""
    return figures((one[0] - other[0], one[1]))


def by_seed(vectors: Vectors, true: Numbers, drawn: Sequence[Draw]) -> list[float]:
    """Accuracy of prototypes for each draw."""
    return [_share(*of_prototypes(vectors, true, [each])) for each in drawn]


def _labels(true: Numbers) -> list[int]:
    labels, sizes = np.unique(true[true >= 0], return_counts=True)
    return [int(label) for label, size in zip(labels, sizes, strict=True) if size > SHOTS]


def _tally(true: Numbers, drawn: Sequence[Draw], ask: Any) -> Tally:
    right, asked = np.zeros(len(true), np.int64), np.zeros(len(true), np.int64)
    for shots, rest in drawn:
        right[rest] += ask(shots, rest) == true[rest]
        asked[rest] += 1
    return right, asked


def _share(right: Numbers, asked: Numbers) -> float:
    return round(float(right.sum() / asked.sum()), 4)


def _interval(right: Numbers, asked: Numbers) -> list[float]:
    mine = asked > 0
    right, asked = right[mine], asked[mine]
    return interval(len(right), lambda chosen: float(right[chosen].sum() / asked[chosen].sum()))
