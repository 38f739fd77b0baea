"""What is usual: the season of a day and the spread around it, from about two weeks of counts.

The baseline is a pure function of the counts of coarse buckets up to a moment, so that it can be taken again from
stored counters at any time and is the same after a restart.
"""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY = 86_400
# 1970 began on a Thursday.
_WEEKEND = np.array([False, False, True, True, False, False, False])
# Seconds over which the season is resolved, and buckets of it smoothed to each side (one hour).
_SEASON = 900
_SIDES = 4
# A day's count moves the season by this many of its standard deviations at most.
_CLIP = 2.0
# The season is drawn to a flat day by this many counts.
_FLAT = 20.0
# Median absolute deviation to standard deviation, and the 95th percentile of a standard normal.
_MAD = 1.4826
_Q95 = 1.6449
# Expected counts in a window from which quantiles tell the spread better than squares, and how far these are
# trusted.
_DENSE = 20.0
_CLIP_SQUARES = 4.0
# A spread far below that of chance is an accident of the sample.
_LEAST_DISPERSION = 0.8
# Relative difference of weekends below which they are days as others; standard error of a median over that of a
# mean.
_APART = 1 / 3
_MIDDLE = 1.25
# Before a whole day is seen, the season may be this much of the rate away (a standard deviation).
_UNSEEN = 0.5
# Baselines whose weeks are written out at once: some megabytes.
_AT_ONCE = 1024


class Baseline(Struct, frozen=True):
    """The usual rate by time of day, and how counts of a window spread around it.

    rates: expected count a second in each part of a day (UTC), all of one length.
    dispersion: variance of a window's count over its mean.
    freedom: degrees of freedom behind the dispersion, which says how far the tail can be trusted.
    error: squared relative error of the rate.
    seconds: length of the counts that were seen.
    weekend: rate on Saturdays and Sundays (UTC) over that of all days, and on the others.
    calm: dispersion and error as the lower tail tells them, which silences are held against: bursts say how high
    counts may go, and nothing of how they may end.
    """

    rates: tuple[float, ...]
    dispersion: float
    freedom: float
    error: float
    seconds: float
    weekend: tuple[float, float] = (1.0, 1.0)
    calm: tuple[float, float] | None = None

    def expected(self, start: Floats, end: Floats) -> Floats:
        """Counts between two moments, in seconds since 1970; arrays of one shape."""
        return _expected([self], np.zeros(np.shape(start), int), start, end)


def runs(known: Sequence[Baseline]) -> list[tuple[int, int]]:
    """Where one baseline serves several places in a row: the first of them, and the one after the last."""
    starts = [at for at in range(len(known)) if at == 0 or known[at] is not known[at - 1]]
    return list(zip(starts, [*starts[1:], len(known)], strict=True))


def expected(known: Sequence[Baseline], start: Floats, end: Floats) -> Floats:
    """Counts between two moments by the baseline of each place [N], which are all of one plan."""
    serving = runs(known)
    found = [np.empty(0)]
    for at in range(0, len(serving), _AT_ONCE):
        block = serving[at : at + _AT_ONCE]
        of = np.repeat(np.arange(len(block)), [stop - first for first, stop in block])
        places = slice(block[0][0], block[-1][1])
        found.append(_expected([known[first] for first, _ in block], of, start[places], end[places]))
    return np.concatenate(found)


def _expected(known: Sequence[Baseline], of: NDArray[np.int_], start: Floats, end: Floats) -> Floats:
    """`of` has the number of each place's baseline."""
    rates = np.array([each.rates for each in known])  # [K, parts]
    off, work = np.array([each.weekend for each in known]).T[:, :, None]  # [K, 1] each
    week = (np.where(_WEEKEND, off, work)[:, :, None] * rates[:, None, :]).reshape(len(known), -1)
    part = DAY / rates.shape[1]
    sums = np.pad(np.cumsum(week, axis=1), ((0, 0), (1, 0))) * part
    return _until(end, sums, of, part) - _until(start, sums, of, part)


def _until(moment: Floats, sums: Floats, of: NDArray[np.int_], part: float) -> Floats:
    weeks, rest = np.divmod(moment, 7 * DAY)
    at = np.minimum((rest // part).astype(int), sums.shape[1] - 2)
    low = sums[of, at]
    total: Floats = weeks * sums[of, -1] + ((sums[of, at + 1] - low) / part * (rest - at * part) + low)
    return total


def fit(counts: Sequence[int] | Floats, start: float, bucket: float, window: float) -> Baseline:
    """The baseline of counts in consecutive buckets of `bucket` seconds, the first one from `start` (since 1970).

    `window` is a whole number of buckets; at least two windows are needed.
    """
    seen = np.asarray(counts, float)
    edges: Floats = (start + bucket * np.arange(len(seen) + 1)).astype(float)
    moments: Floats = (edges[:-1] + bucket / 2).astype(float)
    rates, days = _season(seen, moments, bucket)
    per = round(window / bucket)
    seconds = bucket * len(seen)
    rough = Baseline(tuple(rates.tolist()), 1.0, 1.0, 0.0, seconds)
    rough = replace(rough, weekend=_weekend(seen, rough.expected(edges[:-1], edges[1:]), moments))
    expected = np.maximum(rough.expected(edges[:-per], edges[per:]), 1e-9)
    sums = np.concatenate([[0.0], np.cumsum(seen)])
    behind = max(days * _smoothed(bucket) / window, 2.0)
    observed, mean = sums[per:] - sums[:-per], float(expected.mean())
    upper, lower = _dispersions(observed, expected)
    # The season was made of the same counts, and lies nearer to them than to others.
    spreads = [max(each / (1 - 1 / behind), _LEAST_DISPERSION) for each in (upper, min(lower, upper))]
    unseen = _UNSEEN**2 if seconds < DAY else 0.0
    (dispersion, error), calm = [(each, each / max(mean, 1.0) / behind + unseen) for each in spreads]
    freedom = max(_freedom(len(seen) / per, mean), 2.0)
    return replace(rough, dispersion=dispersion, freedom=freedom, error=error, calm=calm)


def _weekend(seen: Floats, expected: Floats, moments: Floats) -> tuple[float, float]:
    """How much more or less than all days weekends have, and the others: medians of days.

    A difference that is small, or no more than days differ anyway, is none: four days of a weekend are few.
    """
    days = np.floor(moments / DAY).astype(int)
    first = int(days[0])
    whole = np.bincount(days - first) >= 0.9 * DAY / (moments[1] - moments[0])
    observed = np.bincount(days - first, weights=seen)
    ratio = (observed / np.maximum(np.bincount(days - first, weights=expected), 1e-9))[whole]
    free = _WEEKEND[(np.arange(len(whole)) + first) % 7][whole]
    if free.sum() < 2 or (~free).sum() < 4:
        return 1.0, 1.0
    off, work = float(np.median(ratio[free])), float(np.median(ratio[~free]))
    spread = _MAD * float(np.median(np.abs(ratio - np.where(free, off, work))))
    noise = _MIDDLE * spread * math.sqrt(1 / free.sum() + 1 / (~free).sum())
    return (off, work) if abs(off - work) > max(_APART, 3 * noise) else (1.0, 1.0)


def _parts(bucket: float) -> int:
    """Parts of a day that the season tells apart."""
    return max(1, int(DAY // max(bucket, _SEASON)))


def _smoothed(bucket: float) -> float:
    """Seconds of each day that tell one part of the season."""
    parts = _parts(bucket)
    return DAY / parts * (2 * _SIDES + 1 if parts > 4 * _SIDES else 1)


def _season(seen: Floats, moments: Floats, bucket: float) -> tuple[Floats, float]:
    """The rate in each part of a day; and how many days tell one part, on average."""
    parts = _parts(bucket)
    cells = np.floor(moments / (DAY / parts)).astype(int)
    cells -= cells[0] // parts * parts
    size = (int(cells[-1]) // parts + 1) * parts
    count: Floats = np.bincount(cells, weights=seen, minlength=size).astype(float)
    length: Floats = (np.bincount(cells, minlength=size) * bucket).astype(float)
    if parts > 4 * _SIDES:
        count, length = _moving(count), _moving(length)
    return _across_days(count.reshape(-1, parts), length.reshape(-1, parts))


def _moving(values: Floats) -> Floats:
    sums = np.cumsum(np.concatenate([np.zeros(_SIDES + 1), values, np.zeros(_SIDES)]))
    moved: Floats = sums[2 * _SIDES + 1 :] - sums[: -2 * _SIDES - 1]
    return moved


def _across_days(count: Floats, length: Floats) -> tuple[Floats, float]:
    """Robust against days that were unusual; arrays are days x parts."""
    known = length > 0
    seen = length.sum(axis=0)
    rate = np.where(known, count / np.where(known, length, 1.0), np.inf)
    middle = _median(rate, known.sum(axis=0))
    expected = middle * length
    spread = np.sqrt(np.maximum(expected, 1.0))
    apart = np.abs(count - expected)[known] / spread[known]
    limit = _CLIP * max(1.0, _MAD * float(np.median(apart))) * spread
    clipped = np.clip(count, expected - limit, expected + limit).sum(axis=0)
    flat = max(float(clipped.sum() / seen.sum()), 1e-12)
    rates = (clipped + _FLAT) / (seen + _FLAT / flat)
    return np.where(seen > 0, rates, flat), float((seen / length.max()).mean())


def _median(rate: Floats, known: NDArray[np.int_]) -> Floats:
    """The middle of each column's first `known` values in order; 0 for a column without any."""
    ordered = np.sort(rate, axis=0)
    columns = np.arange(rate.shape[1])
    low = ordered[np.maximum(known - 1, 0) // 2, columns]
    high = ordered[np.minimum(known // 2, len(rate) - 1), columns]
    return np.where(known > 0, (low + high) / 2, 0.0)


def _dispersions(observed: Floats, expected: Floats) -> tuple[float, float]:
    """Variance over mean of counts: by the upper and the lower tail if dense, by squares if sparse."""
    squares = (observed - expected) ** 2 / expected
    sparse = 1.0
    for _ in range(3):
        sparse = float(np.minimum(squares, _CLIP_SQUARES**2 * max(sparse, 1.0)).mean())
    share = min(1.0, float(expected.mean()) / _DENSE)
    tails = (_tail(observed, expected, side) for side in (1, -1))
    upper, lower = (share * each + (1 - share) * sparse for each in tails)
    return upper, lower


def _freedom(windows: float, mean: float) -> float:
    """Degrees of freedom of the dispersion: a percentile tells less than squares.

    Overlapping windows know half as much again as disjoint ones; so the relative error of the spread is
    sqrt(1.5 / windows) by the 95th percentile, and sqrt(1 / windows) by squares, whose tails are long where counts
    are sparse.
    """
    share = min(1.0, mean / _DENSE)
    return windows / (3.0 * share + 2.0 * (1 - share))


def _tail(observed: Floats, expected: Floats, side: int) -> float:
    """The dispersion whose 95th percentile (`side` 1) or 5th (-1) is that of the counts, on the scale of roots.

    Spread is even there. By Cornish and Fisher's expansion a negative binomial's percentiles lie
    (0.284 + 0.109 dispersion) / sqrt(mean) below the normal's.
    """
    apart = 2 * (np.sqrt(observed + 0.375) - np.sqrt(expected + 0.375))
    percentile = float(np.quantile(apart, 0.95 if side > 0 else 0.05))
    root = float((1 / np.sqrt(expected + 0.375)).mean())
    spread = 1.0
    for _ in range(4):
        spread = max(side * (percentile + (0.284 + 0.109 * spread**2) * root) / _Q95, 0.0)
    return spread**2
