"""A surge of the share of a label: more bad news among the news, however many there are.

The test is on the share given the number of events, so a surge of volume alone moves nothing. What the classifier
confuses is taken out with its confusion matrix: when the neutral rise among the positive, and some neutral ones
are mistaken for negative, the negative have not risen, and are not said to.
"""

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.surge.sensitivity import alarms_per_week
from pipeline.surge.tails import shrink
from pipeline.surge.volume import HOLDS, LEARNT, Judgement, Plan
from schemas.errors import ConfigError

Floats = NDArray[np.float64]

# A window moves the baseline's share, and its dispersion, by this many standard deviations at most.
_CLIP = 3.0
# Weight of a flat distribution in the baseline's labels, in events: no label is impossible.
_FLAT = 1.0
# Largest exponent of the tilted distribution, in units of the weights' range, and halvings of it.
_TILT = 60.0
_HALVINGS = 60


class Confusion(Struct, frozen=True):
    """How often a label is taken for another: rows are the truth, columns predictions; each row sums to 1."""

    labels: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]

    @property
    def matrix(self) -> Floats:
        return np.array(self.rows, float)

    @property
    def mark(self) -> int:
        """Tells this matrix from others."""
        return zlib.crc32(msgspec.json.encode((self.labels, self.rows)))

    def weights(self, watched: Sequence[str]) -> Floats:
        """What each predicted label counts for the share of the watched ones: unbiased whatever the mixture.

        Raises:
            ConfigError: the matrix is none of these labels, or too confused to be inverted.
        """
        size, matrix = len(self.labels), self.matrix
        if matrix.shape != (size, size) or (matrix < 0).any() or (abs(matrix.sum(axis=1) - 1) > 1e-3).any():
            raise ConfigError(
                f"a confusion matrix of {size} labels has {size} rows of as many shares that sum to 1"
            )
        if unknown := sorted(set(watched) - set(self.labels)):
            raise ConfigError(f"{unknown[0]!r} is no label; there are {', '.join(self.labels)}")
        if np.linalg.cond(matrix) > 1e3:
            raise ConfigError("the classifier confuses its labels so much that no share can be told")
        return np.linalg.solve(matrix, np.isin(self.labels, watched).astype(float))


def perfect(labels: Sequence[str]) -> Confusion:
    """The matrix of a classifier that is never wrong, for one whose errors are not known."""
    return Confusion(tuple(labels), tuple(tuple(map(float, row)) for row in np.eye(len(labels))))


class ShareBaseline(Struct, frozen=True):
    """predicted: usual shares of predicted labels; dispersion, freedom, seconds: as in a `Baseline`.

    of: the mark of the confusion matrix by which it was made. since: the first bucket looked at.
    """

    predicted: tuple[float, ...]
    dispersion: float
    freedom: float
    seconds: float
    of: int = 0
    since: int = 0


def fit_share(
    counts: Floats, bucket: float, window: float, confusion: Confusion, watched: Sequence[str]
) -> ShareBaseline:
    """The baseline of counts (buckets x predicted labels) in consecutive buckets of `bucket` seconds."""
    per = round(window / bucket)
    whole = counts[len(counts) % per :].reshape(-1, per, counts.shape[1]).sum(axis=1)
    heard = whole[whole.sum(axis=1) > 0]
    predicted = _shares(heard.sum(axis=0))
    weights = confusion.weights(watched)
    dispersion = 1.0
    for _ in range(3):
        apart = _apart(heard, predicted, weights)
        calm = np.minimum(1.0, _CLIP * np.sqrt(dispersion) / np.maximum(np.abs(apart), 1e-9))
        predicted = _shares((heard * calm[:, None]).sum(axis=0))
        dispersion = float(np.minimum(apart**2, _CLIP**2 * dispersion).mean()) if len(heard) else 1.0
    return ShareBaseline(
        tuple(predicted.tolist()),
        max(dispersion, 1.0),
        max(float(len(heard)), 2.0),
        bucket * len(counts),
        confusion.mark,
    )


def _shares(counts: Floats) -> Floats:
    shares: Floats = (counts + _FLAT / len(counts)) / (counts.sum() + _FLAT)
    return shares


def _apart(counts: Floats, predicted: Floats, weights: Floats) -> Floats:
    """How many standard deviations of chance the watched share of each window lies from that of `predicted`."""
    total = counts.sum(axis=1)
    mean = predicted @ weights
    variance = predicted @ weights**2 - mean**2
    apart: Floats = (counts @ weights - total * mean) / np.sqrt(np.maximum(total * variance, 1e-12))
    return apart


class ShareJudgement(Struct, frozen=True):
    """value, expected: shares of the watched labels, confusion taken out; arrays of one length."""

    value: Floats
    expected: Floats
    judgement: Judgement


def judge_share(
    plan: Plan,
    counts: Floats,
    baselines: Sequence[ShareBaseline],
    confusion: Confusion,
    watched: Sequence[str],
    groups: "int | Floats" = 1,
) -> ShareJudgement:
    """Decide on `counts` (windows x predicted labels), each with a baseline of its own.

    `plan.minimum` is of those predicted as watched; `groups` as in `pipeline.surge.volume.judge`.
    """
    weights, is_watched = confusion.weights(watched), np.isin(confusion.labels, watched)
    predicted = np.array([each.predicted for each in baselines])
    dispersion, freedom, seconds = np.array([(b.dispersion, b.freedom, b.seconds) for b in baselines]).T
    total = counts.sum(axis=1)
    usual: Floats = np.clip(predicted @ weights, 1e-6, 1 - 1e-6)
    value = np.clip(counts @ weights / np.maximum(total, 1), 0.0, 1.0)
    null = _null(counts, predicted, confusion, is_watched, usual)
    z = _deviations(counts @ weights, total, null, weights) / np.sqrt(dispersion)
    log_rate = alarms_per_week(shrink(z, freedom), plan.every, plan.window)
    bar = plan.bar(groups, seconds < LEARNT * plan.baseline)
    enough = counts[:, is_watched].sum(axis=1) >= plan.minimum
    judgement = Judgement(log_rate, enough & (log_rate <= bar), enough & (log_rate <= bar + HOLDS))
    return ShareJudgement(value, usual, judgement)


def _null(
    counts: Floats, predicted: Floats, confusion: Confusion, watched: NDArray[np.bool_], usual: Floats
) -> Floats:
    """What would be predicted with the usual share of the watched labels, and the others as they are seen."""
    matrix = confusion.matrix
    seen = (counts + predicted) / (counts.sum(axis=1, keepdims=True) + 1)
    truth = np.maximum(np.linalg.solve(matrix.T, seen.T).T, 1e-9)
    truth[:, watched] *= usual[:, None] / truth[:, watched].sum(axis=1, keepdims=True)
    truth[:, ~watched] *= (1 - usual[:, None]) / truth[:, ~watched].sum(axis=1, keepdims=True)
    null: Floats = truth @ matrix
    return np.maximum(null, 1e-12)


def _deviations(observed: Floats, total: Floats, null: Floats, weights: Floats) -> Floats:
    """Sums of weights as the standard deviations that their tail is worth; 0 where they are no more than usual.

    Saddlepoint approximation (Barndorff-Nielsen's r*): the sum of `total` draws from the row of `null`, tilted
    until its mean is the one observed. Right to a few percent down to single counts.
    """
    n = np.maximum(total, 1.0)
    # A mean at the very edge has no tilt; half an event inside it has.
    spread = weights.max() - weights.min()
    mean = np.minimum(observed / n, weights.max() - spread * 0.25 / n)
    above = mean > null @ weights + 1e-12
    low, high = np.zeros(len(n)), np.full(len(n), _TILT / spread)
    for _ in range(_HALVINGS):
        tilt = (low + high) / 2
        over = _tilted(null, weights, tilt)[1] > mean
        low, high = np.where(over, low, tilt), np.where(over, tilt, high)
    tilt = np.maximum((low + high) / 2, 1e-9)
    log_mass, _, variance = _tilted(null, weights, tilt)
    root = np.sqrt(np.maximum(2 * n * (tilt * mean - log_mass), 1e-12))
    slope = tilt * np.sqrt(n * np.maximum(variance, 1e-12))
    z: Floats = np.where(above & (root > 0.1), root + np.log(slope / root) / root, 0.0)
    return z


def _tilted(null: Floats, weights: Floats, tilt: Floats) -> tuple[Floats, Floats, Floats]:
    """Log of the mass, mean and variance of the weights under the tilted distribution of each row."""
    top = weights.max()
    mass = null * np.exp(tilt[:, None] * (weights - top))
    whole = mass.sum(axis=1)
    mean = mass @ weights / whole
    return np.log(whole) + tilt * top, mean, mass @ weights**2 / whole - mean**2
