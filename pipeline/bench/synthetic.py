"""Streams of which everything is known: does the stated number of false alerts hold, and what is found how soon.

Counts a minute with the season of a day, Poisson or negative binomial with a variance of twice the mean. Surges
are of three times the usual for an hour, with that variance, at times when the usual is the rate that is stated.
"""

import math
from statistics import median

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.surge.baseline import DAY
from pipeline.surge.sensitivity import WEEK
from pipeline.surge.series import Series, follow
from pipeline.surge.volume import Plan

Floats = NDArray[np.float64]

# Seconds of one count.
STEP = 60.0
# A day's rate swings by half to each side.
_SWING = 0.5
_TIMES = 3.0
_SURGE = 3600.0
# Days from one surge to the next, so that each meets a baseline of calm days; and weeks before the first decision
# counts.
_APART = 7
_FIRST = 2


class Calm(Struct, frozen=True):
    """Alerts where nothing is: how many, of how many that are expected by the sensitivity."""

    kind: str
    rate: float
    alerts: int
    expected: float

    @property
    def ratio(self) -> float:
        return self.alerts / self.expected


class Found(Struct, frozen=True):
    """Surges that were found, and the median minutes from their onset to the alert."""

    kind: str
    rate: float
    surges: int
    found: int
    delay: float


def rates(rate: float, seconds: float, step: float = STEP) -> Floats:
    """Expected count of each step: `rate` an hour on the mean over a day, the most at noon."""
    moments = (np.arange(round(seconds / step)) + 0.5) * step
    expected: Floats = rate * step / 3600 * (1 - _SWING * np.cos(2 * np.pi * moments / DAY))
    return expected


def drawn(kind: str, expected: Floats, rng: np.random.Generator) -> Floats:
    """Counts with this expectation: `poisson`, or `negative binomial` with a variance of twice the mean."""
    if kind == "poisson":
        return rng.poisson(expected).astype(float)
    # A size equal to the mean, and a probability of one half.
    return rng.negative_binomial(np.maximum(expected, 1e-9), 0.5).astype(float)


def calm(kind: str, rate: float, weeks: int, seed: int = 1, plan: Plan | None = None, step: float = STEP) -> Calm:
    """Alerts in `weeks` weeks of a stream without a surge, after the baseline has been learnt."""
    plan = plan or Plan(every=step)
    counts = drawn(kind, rates(rate, (weeks + _FIRST) * WEEK, step), np.random.default_rng(seed))
    track = follow(Series(kind, 0.0, step, counts), plan)
    late = [alert for alert in track.alerts if alert.row * step >= _FIRST * WEEK]
    return Calm(kind, rate, len(late), plan.sensitivity * weeks)


def surges(
    kind: str, rate: float, many: int, seed: int = 2, plan: Plan | None = None, step: float = STEP
) -> Found:
    """Surges put into a stream, one a week, in the morning or the evening, when the usual is `rate` an hour."""
    plan, rng = plan or Plan(every=step), np.random.default_rng(seed)
    expected = rates(rate, _FIRST * WEEK + (many + 1) * _APART * DAY, step)
    counts = drawn(kind, expected, rng)
    onsets = [
        _FIRST * WEEK + each * _APART * DAY + rng.choice((6.0, 18.0)) * 3600 + float(rng.integers(-30, 30)) * 60
        for each in range(many)
    ]
    for onset in onsets:
        rows = slice(round(onset / step), round((onset + _SURGE) / step))
        counts[rows] = drawn("negative binomial", _TIMES * expected[rows], rng)
    track = follow(Series(kind, 0.0, step, counts), plan)
    spans = [((alert.row + 1) * step, (alert.last + 1) * step) for alert in track.alerts]
    first = [next((begun for begun, last in spans if last > onset), math.inf) - onset for onset in onsets]
    # A surge is found when an alert is on while it is in the window; one that was on before has no delay.
    found = [delay for delay in first if delay <= _SURGE + plan.window]
    delays = [delay / 60 for delay in found if delay > 0]
    return Found(kind, rate, many, len(found), float(median(delays)) if delays else math.inf)
