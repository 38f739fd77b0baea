"""Times as the messages and tables write them: microseconds since 1970, UTC, and RFC 3339."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Asked once for each chunk and passed down.
Now = Callable[[], int]


def now() -> int:
    """The clock, in microseconds."""
    return time.time_ns() // 1000


def rfc3339(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def microseconds(moment: datetime) -> int:
    """A moment without an offset is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)
