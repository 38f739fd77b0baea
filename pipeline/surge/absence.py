"""Silence: how improbable it is under the baseline that nothing came for so long."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.surge.baseline import Baseline, expected
from pipeline.surge.sensitivity import WEEK
from pipeline.surge.volume import HOLDS, Judgement, Plan, Usual

Floats = NDArray[np.float64]


def silences(known: Sequence[Baseline], ends: Floats, last: Floats) -> Floats:
    """Events that each decision's baseline expects between the last one and it; seconds since 1970."""
    return expected(known, np.minimum(last, ends), ends)


def judge_silence(
    plan: Plan, silent: Floats, missing: Floats, known: Usual, groups: "int | Floats" = 1
) -> Judgement:
    """Decide on silences of `silent` seconds in which `missing` events were expected; `known` is of their windows.

    A silence begins after any event, so chance makes as many of this length a week as there are bursts of events,
    times the probability of none: that of a negative binomial with the baseline's dispersion, its rate not known
    exactly. A silence shorter than the rule's window is none. A group that is hardly ever heard falls silent at
    any time, and gives no alert.
    """
    burst = np.maximum(known.calm_dispersion - 1, 1e-6)
    bursts = np.log1p(burst) / burst
    error = np.maximum(known.calm_error, 1e-9)
    none = -np.log1p(error * missing * bursts) / error
    begun = np.maximum(known.expected / plan.window * WEEK * bursts, 1e-12)
    log_rate = np.log(begun) + none
    bar = plan.bar(groups, known.learning)
    enough = (silent >= plan.window) & (missing > 1)
    return Judgement(log_rate, enough & (log_rate <= bar), enough & (log_rate <= bar + HOLDS))
