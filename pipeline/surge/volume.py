"""A surge of counts in a trailing window: how improbable it is, and how often chance would do that."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.surge.baseline import DAY, Baseline, expected, runs
from pipeline.surge.sensitivity import alarms_per_week, allowance
from pipeline.surge.tails import count_tail, normal_equivalent, shrink

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Seconds after which a baseline is taken anew; it hardly moves in three hours of two weeks.
_REFIT = 10_800.0
# ... nor in a tenth of a shorter one.
_REFITS = 0.1
# Share of the baseline's length that must be seen before its word is taken; until then evidence must be this much
# rarer than it would have to be.
LEARNT = 0.25
_EXTREME = math.log(0.1)
# An alert goes on while evidence is at most this much more common than what it needed to begin.
HOLDS = math.log(10.0)
# Buckets of the baseline in one window, and in all of it, at most.
_FINE = 4
_BUCKETS = 6000
# Windows that must be seen before anything can be said at all.
_WINDOWS = 8
# Standard deviations by the count's own mean and dispersion below which no tail is computed: no alert is near.
_NEAR = 1.2


class Plan(Struct, frozen=True):
    """What a rule asks for; all times in seconds.

    sensitivity: expected false alerts a week over all groups. minimum: least count of an alert. rearm: quiet time
    after which an alert is resolved and can come again. hold: time for which evidence must last before it fires.
    """

    window: float = 3600.0
    every: float = 300.0
    baseline: float = 14.0 * DAY
    minimum: int = 3
    sensitivity: float = 1.0
    rearm: float = 6 * 3600.0
    hold: float = 0.0

    @property
    def bucket(self) -> float:
        """Seconds of one count of the baseline: a whole part of the window, and whole steps between decisions."""
        for parts in range(_FINE, 1, -1):
            size = self.window / parts
            if size % self.every == 0 and self.baseline / size <= _BUCKETS:
                return size
        return self.window

    @property
    def least(self) -> float:
        """Seconds of counts that the first decision needs."""
        return _WINDOWS * self.window

    @property
    def refit(self) -> float:
        """Seconds for which a baseline serves: three hours of two weeks, less of a shorter one; whole buckets."""
        least = min(_REFIT, self.baseline * _REFITS)
        return math.ceil(max(least, self.window) / self.bucket) * self.bucket

    def known_until(self, moments: Floats, phase: "float | Floats" = 0.0, lag: "float | Floats" = 0.0) -> Floats:
        """Where the counts end that make the baseline of a decision at each moment: before its own window.

        Groups that take their baselines anew at different moments share the work: `phase` is by how much later
        they end, `lag` how much later they are taken (seconds).
        """
        until: Floats = np.floor((moments - self.window - phase - lag) / self.refit) * self.refit + phase
        return until

    def bar(self, groups: "int | Floats", learning: Flags) -> Floats:
        """Log of the false alerts a week at which a group fires; `groups` share the sensitivity."""
        sizes, at = np.unique(np.asarray(groups), return_inverse=True)
        levels = np.array([allowance(self.sensitivity, int(size), self.rearm) for size in sizes])
        result: Floats = levels[at].reshape(np.shape(groups)) + np.where(learning, _EXTREME, 0.0)
        return result


class Usual(Struct, frozen=True):
    """What baselines say of each of several windows; arrays of one length."""

    expected: Floats
    dispersion: Floats
    freedom: Floats
    error: Floats
    learning: Flags
    calm_dispersion: Floats
    calm_error: Floats


class Judgement(Struct, frozen=True):
    """What the decisions say; arrays of one length.

    log_rate: log of the false alerts a week of a group that fires at such evidence. fires, holds: whether that is
    enough to begin, and to go on.
    """

    log_rate: Floats
    fires: Flags
    holds: Flags


def usual(known: Sequence[Baseline], plan: Plan, ends: Floats) -> Usual:
    """What the baseline of each place says of the window that ends there (seconds since 1970)."""
    serving = runs(known)
    firsts, sizes = [known[start] for start, _ in serving], [stop - start for start, stop in serving]
    calm = [each.calm or (each.dispersion, each.error) for each in firsts]

    def spread(values: Sequence[float]) -> Floats:
        return np.repeat(np.array(values, float), sizes)

    return Usual(
        expected(known, ends - plan.window, ends),
        spread([each.dispersion for each in firsts]),
        spread([each.freedom for each in firsts]),
        spread([each.error for each in firsts]),
        spread([each.seconds for each in firsts]) < LEARNT * plan.baseline,
        spread([dispersion for dispersion, _ in calm]),
        spread([error for _, error in calm]),
    )


def judge(plan: Plan, values: Floats, known: Usual, groups: "int | Floats" = 1) -> Judgement:
    """Decide on the counts of windows.

    groups: groups of the rule that were active in the last fourteen days, in all or at each window; they share
    its sensitivity.
    """
    log_rate = alarms_per_week(deviations(values, known), plan.every, plan.window)
    bar = plan.bar(groups, known.learning)
    enough = values >= plan.minimum
    return Judgement(log_rate, enough & (log_rate <= bar), enough & (log_rate <= bar + HOLDS))


def deviations(values: Floats, known: Usual) -> Floats:
    """Counts as standard deviations of the same tail, the spread not being known exactly; 0 if few."""
    z = np.zeros(values.shape)
    mean = np.maximum(known.expected, 1e-6)
    chance = np.maximum(known.dispersion, 1.0)
    near = values - mean > _NEAR * np.sqrt(mean * chance)
    if near.any():
        spread = (chance + known.error * mean)[near]
        tail = normal_equivalent(count_tail(values[near], mean[near], spread))
        z[near] = shrink(tail / np.sqrt(np.minimum(known.dispersion[near], 1.0)), known.freedom[near])
    return z
