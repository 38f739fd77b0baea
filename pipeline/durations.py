"""Lengths of time as people write them."""

import re

from schemas.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# A hundred years, in seconds: no moment that far away can be stored.
_LONGEST = 36_500 * 86_400
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def parse_duration(text: str) -> int:
    """Microseconds of `90d`, `12h`, `30m`, `45s`, `2w`.

    Raises:
        UsageError: it is none of these, or longer than a hundred years.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no length of time; write a number and s, m, h, d or w, as in 90d")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST:
        raise UsageError(f"{text!r} is longer than a hundred years; write at most 36500d")
    return int(seconds * 1_000_000)
