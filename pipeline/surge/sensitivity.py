"""From one number a person understands, expected false alerts a week, to the evidence that an alert needs.

Decisions overlap: two windows of an hour, five minutes apart, share eleven twelfths of their events, and what
exceeds a level does so in clusters. The rate of clusters for a sum over a sliding window (correlation falling in a
straight line), looked at in steps, is Pickands' u^2 Q(u) a window with Siegmund's correction for steps (D.
Siegmund, Sequential Analysis, 1985, chapter 10). An alert begins one cluster; whatever follows within the re-arm
time is part of it, so that a week holds fewer possible alerts than clusters.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.surge.tails import normal_tail

Floats = NDArray[np.float64]

WEEK = 604_800.0
# Below this many standard deviations nothing is rare, and the asymptotics do not hold.
_LEAST = 1.5


def alarms_per_week(z: Floats, every: float, window: float) -> Floats:
    """Log of how often a week chance alone reaches this many standard deviations; `inf` where that is no rarity.

    every, window: seconds between decisions, and of counting.
    """
    u = np.maximum(z, _LEAST)
    clusters = np.minimum(1.0, every / window * u * u * _steps(u * math.sqrt(2 * min(every / window, 1.0))))
    log_rate = math.log(WEEK / every) + np.log(clusters) + normal_tail(u)
    result: Floats = np.where(z >= _LEAST, log_rate, np.inf)
    return result


def _steps(x: Floats) -> Floats:
    """Siegmund's nu: the share of crossings that are seen when one looks in steps; 1 for tiny ones."""
    below = -np.expm1(normal_tail(x / 2))
    density = np.exp(-x * x / 8) / math.sqrt(2 * math.pi)
    result: Floats = (2 / x) * (below - 0.5) / (x / 2 * below + density)
    return result


def allowance(sensitivity: float, groups: int, rearm: float) -> float:
    """Log of the clusters a week that one of `groups` active groups may take for a surge.

    sensitivity: expected false alerts a week over all groups. rearm: seconds during which an alert hides others.
    """
    share = sensitivity / max(groups, 1)
    hidden = min(share * rearm / WEEK, 0.9)
    return math.log(share / (1 - hidden))


def level(log_rate: float, every: float, window: float) -> float:
    """The standard deviations at which chance has this rate: the inverse of `alarms_per_week`, by bisection."""
    low, high = _LEAST, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(alarms_per_week(np.array(middle), every, window)) > log_rate:
            low = middle
        else:
            high = middle
    return high
