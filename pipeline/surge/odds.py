"""Odds in words, for people who are woken by them."""

import math

from pipeline.surge.sensitivity import WEEK

# Seconds of what people count in, longest first.
_UNITS = (("year", 365.25 * 86_400), ("week", WEEK), ("day", 86_400.0), ("hour", 3600.0))
_MILLION = 1e6


def odds(value: float, expected: float, log_rate: float) -> str:
    """As in "12 times the usual; expected once in 3 years".

    log_rate: log of how often a week chance would do this to the group.
    """
    return f"{times(value, expected)}; expected {once_in(log_rate)}"


def times(value: float, expected: float) -> str:
    """How many times the usual a value is."""
    if value <= 0:
        return f"none where {_figure(expected)} are usual"
    ratio = value / max(expected, 1e-9)
    if ratio > 1000:
        return "where almost nothing is usual"
    return f"{_figure(ratio)} times the usual"


def once_in(log_rate: float) -> str:
    """As in "once in 3 years"."""
    if not math.isfinite(log_rate):
        return "at any time" if log_rate > 0 else "never"
    seconds = WEEK * math.exp(min(-log_rate, 600.0))
    if seconds / _UNITS[0][1] > _MILLION:
        return "once in more than a million years"
    for name, unit in _UNITS:
        # The logarithm's rounding must not make 52 weeks of a year.
        if seconds >= 0.999 * unit:
            many = _figure(seconds / unit)
            return f"once in {many} {name}{'' if many == '1' else 's'}"
    return "more than once an hour"


def _figure(number: float) -> str:
    if number < 9.95:
        return f"{number:.2g}"
    digits = max(0, int(math.log10(number)) - 1)
    return f"{round(number, -digits):,.0f}"
