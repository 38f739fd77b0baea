"""The rules by which the Numenta Anomaly Benchmark scores detections (standard profile).

Source: A. Lavin and S. Ahmad, Evaluating Real-time Anomaly Detection Algorithms, arXiv:1510.03336; the weights are
those that the benchmark publishes. The first detection in a labelled window earns up to 1, more the earlier it
comes; a window without one costs 1; a detection elsewhere costs 0.11, less just behind a window. Of these sums 0
is a detector that finds nothing and 100 a perfect one. The first 15 % of a file, 750 rows at most, are not scored.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.surge.sensitivity import WEEK
from pipeline.surge.series import Series, read_series
from schemas.errors import UsageError

_FALSE = 0.11
_PROBATION = 0.15
_PROBATION_ROWS = 750
# Window lengths behind a window from which a detection costs all it can.
_FAR = 3.0
_STEEP = 5.0


class Topic(Struct, frozen=True):
    """A series and its labelled windows: first and last row of each, in order."""

    series: Series
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows that are not scored."""
        return min(int(_PROBATION * len(self.series.counts)), _PROBATION_ROWS)

    @property
    def weeks(self) -> float:
        """Length of what is scored."""
        return (len(self.series.counts) - self.probation) * self.series.step / WEEK


class Points(Struct, frozen=True):
    """What detections on one topic, or several, come to."""

    points: float = 0.0
    windows: int = 0
    hit: int = 0
    false: int = 0
    weeks: float = 0.0

    @property
    def score(self) -> float:
        """From 0, nothing found, to 100, perfect; below 0 with more harm than good."""
        return 50 * (self.points + self.windows) / max(self.windows, 1)


def read_topics(folder: str) -> list[Topic]:
    """The topics of a folder with a CSV each and `windows.json`: file name to pairs of first and last time.

    Raises:
        UsageError: a file is absent or cannot be read.
    """
    path = Path(folder) / "windows.json"
    try:
        windows = msgspec.json.decode(path.read_bytes(), type=dict[str, list[tuple[str, str]]])
    except OSError as error:
        raise UsageError(f"the file {path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"the file {path} is not as it should be: {error}") from None
    if not windows:
        raise UsageError(f"the file {path} names no topic")
    return [_topic(Path(folder) / name, pairs) for name, pairs in sorted(windows.items())]


def _topic(path: Path, pairs: Sequence[tuple[str, str]]) -> Topic:
    series = read_series(str(path))
    try:
        moments = np.array(pairs, dtype="datetime64[us]").astype(float).reshape(-1, 2) / 1e6
    except ValueError as error:
        raise UsageError(f"windows.json, {path.name}: {error}") from None
    rows = np.clip(np.rint((moments - series.start) / series.step), 0, len(series.counts) - 1).astype(int)
    return Topic(series, tuple(sorted((int(first), int(last)) for first, last in rows)))


def points(topic: Topic, detections: Sequence[int]) -> Points:
    """Score detections, given as rows in order."""
    scored = [row for row in detections if row >= topic.probation]
    windows = [window for window in topic.windows if window[1] >= topic.probation]
    earned, hit = 0.0, 0
    for first, last in windows:
        inside = next((row for row in scored if first <= row <= last), None)
        hit += inside is not None
        earned += -1.0 if inside is None else _worth(-(last - inside + 1) / (last - first + 1)) / _worth(-1.0)
    false = [row for row in scored if not any(first <= row <= last for first, last in windows)]
    cost = sum(_FALSE * _worth(_behind(row, topic.windows)) for row in false)
    return Points(earned + cost, len(windows), hit, len(false), topic.weeks)


def _behind(row: int, windows: Sequence[tuple[int, int]]) -> float:
    """How far behind the last window a row is, in lengths of that window."""
    past = [window for window in windows if window[1] < row]
    return (row - past[-1][1]) / max(past[-1][1] - past[-1][0], 1) if past else _FAR


def _worth(position: float) -> float:
    """1 long before a window's end, 0 at it, -1 long behind."""
    return -1.0 if position >= _FAR else 2 / (1 + math.exp(_STEEP * position)) - 1


def together(parts: Sequence[Points]) -> Points:
    """All topics as one."""
    names = Points.__struct_fields__
    return Points(*(sum(getattr(part, name) for part in parts) for name in names))


def rearmed(rows: NDArray[np.int_], quiet: int) -> list[int]:
    """The rows that begin an alert: none within `quiet` rows of the one before."""
    kept: list[int] = []
    for row in rows.tolist():
        if not kept or row - kept[-1] >= quiet:
            kept.append(row)
    return kept
