"""A plain series of counts, and what a rule would have said at each of its rows as they came."""

import csv
import math
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from pipeline.surge.absence import judge_silence, silences
from pipeline.surge.baseline import Baseline, fit
from pipeline.surge.rearm import Rearm
from pipeline.surge.volume import Judgement, Plan, Usual, judge, usual
from pipeline.times import microseconds
from schemas.errors import UsageError

Floats = NDArray[np.float64]

# Rows of the grid at most: ten years by the minute.
_ROWS = 5_300_000


class Series(Struct, frozen=True):
    """Counts of consecutive `step` seconds; the first row begins at `start` (seconds since 1970)."""

    name: str
    start: float
    step: float
    counts: Floats

    @property
    def ends(self) -> Floats:
        """When each row is complete, which is when it can be decided on."""
        ends: Floats = (self.start + self.step * np.arange(1, len(self.counts) + 1)).astype(float)
        return ends


class Alert(Struct, frozen=True):
    """One alert: `row` of its first decision, the last row with evidence, and None while it is not over."""

    row: int
    last: int
    over: bool
    value: float
    expected: float
    log_rate: float


class Track(Struct, frozen=True):
    """Decisions on a series, one a row from `first` on; `alerts` in the order of their beginning."""

    values: Floats
    expected: Floats
    alerts: tuple[Alert, ...]


def read_series(path: str) -> Series:
    """Read a CSV of `timestamp,value`; its step is the commonest distance of rows, and what is absent counts 0.

    Raises:
        UsageError: it cannot be read, with the line.
    """
    moments, values = [], []
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"timestamp", "value"} <= set(reader.fieldnames or ()):
                raise UsageError(f"the file {path} has no columns timestamp and value in its first line")
            for row in reader:
                moments.append(_moment(row["timestamp"], path, reader.line_num))
                values.append(_count(row["value"], path, reader.line_num))
    except OSError as error:
        raise UsageError(f"the file {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the file {path} cannot be read as CSV: {error}") from None
    return _gridded(path, np.array(moments), np.array(values))


def _gridded(path: str, moments: Floats, values: Floats) -> Series:
    apart = Counter(np.diff(np.unique(moments)).tolist())
    if not apart:
        raise UsageError(f"the file {path} has fewer than two moments; a series has many, at even distances")
    step = apart.most_common(1)[0][0]
    start = float(moments.min())
    rows = np.floor((moments - start) / step + 1e-6).astype(int)
    if rows.max() >= _ROWS:
        raise UsageError(
            f"the file {path} has rows {step:g} seconds apart over too long a time; sum them up first"
        )
    return Series(Path(path).stem, start, float(step), np.bincount(rows, weights=values).astype(float))


def _moment(text: str | None, path: str, line: int) -> float:
    try:
        return microseconds(datetime.fromisoformat((text or "").strip())) / 1e6
    except ValueError:
        raise UsageError(f"{path}, line {line}: {text!r} is no time; write it as 2024-05-31T09:30:00Z") from None


def _count(text: str | None, path: str, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e15:
        raise UsageError(f"{path}, line {line}: {text!r} is no count; write a number from 0 on")
    return value


def follow(series: Series, plan: Plan, kind: str = "volume") -> Track:
    """Decide at each row with what was known then, as a live group does; `kind` is volume or absence.

    Raises:
        UsageError: the window is not a whole number of the series' steps.
    """
    plan = _fitted(plan, series)
    per = round(plan.window / series.step)
    sums = np.concatenate([[0.0], np.cumsum(series.counts)])
    rows = np.arange(len(series.counts))
    values = sums[rows + 1] - sums[np.maximum(rows + 1 - per, 0)]
    # The grid of the baseline is that of the clock, whatever the seconds at which the rows are taken.
    ends = series.ends - series.start % series.step
    last = _last(series.counts, ends, series.step)
    first, known, missing = _baselines(series, plan, ends, last)
    decided = slice(first, len(rows))
    if kind == "absence":
        silent = (ends - last)[decided]
        judgement, values, expected = judge_silence(plan, silent, missing, known), np.zeros(len(rows)), missing
    else:
        judgement, expected = judge(plan, values[decided], known), known.expected
    expected = np.concatenate([np.full(first, np.nan), expected])
    asked = np.floor(ends[decided] / plan.every) > np.floor((ends[decided] - series.step) / plan.every)
    return Track(values, expected, tuple(_alerts(plan, ends, values, expected, first, judgement, asked)))


def _fitted(plan: Plan, series: Series) -> Plan:
    """The plan on the grid of the series: no decisions between its rows."""
    per = plan.window / series.step
    if per < 1 or per != round(per):
        raise UsageError(
            f"the rows of {series.name} are {series.step:g} s apart, and a window of {plan.window:g} s "
            f"is no whole number of them; give the rule a window of {series.step:g}s or a multiple of it"
        )
    every = max(1, round(plan.every / series.step)) * series.step
    return replace(plan, every=every)


def _last(counts: Floats, ends: Floats, step: float) -> Floats:
    """The end of the last row with a count, at each row; before any, the beginning."""
    at = np.maximum.accumulate(np.where(counts > 0, np.arange(len(counts)), -1))
    return np.where(at >= 0, ends[np.maximum(at, 0)], ends[0] - step)


def _baselines(series: Series, plan: Plan, ends: Floats, last: Floats) -> tuple[int, Usual, Floats]:
    """The first row that can be decided on; what is usual from it on; and what is missing in silences."""
    bucket = plan.bucket
    per = round(bucket / series.step)
    start = ends[0] - series.step
    skipped = round((math.ceil(start / bucket) * bucket - start) / series.step) if bucket % series.step == 0 else 0
    whole = series.counts[skipped:][: (len(series.counts) - skipped) // per * per]
    coarse, begin = whole.reshape(-1, per).sum(axis=1), start + skipped * series.step
    until = plan.known_until(ends)
    moments, firsts = np.unique(until, return_index=True)
    known: list[Baseline] = []
    first = len(ends)
    for moment, row, after in zip(
        moments.tolist(), firsts.tolist(), [*firsts[1:].tolist(), len(ends)], strict=True
    ):
        to = math.floor((moment - begin) / bucket)
        since = max(0, to - round(plan.baseline / bucket))
        if (to - since) * bucket < plan.least:
            continue
        first = min(first, row)
        known += [fit(coarse[since:to], begin + since * bucket, bucket, plan.window)] * (after - row)
    if not known:
        raise UsageError(
            f"{series.name} is too short: {plan.least / 3600:g} hours must have passed before the first decision"
        )
    return first, usual(known, plan, ends[first:]), silences(known, ends[first:], last[first:])


def _alerts(
    plan: Plan,
    ends: Floats,
    values: Floats,
    expected: Floats,
    first: int,
    judgement: Judgement,
    asked: NDArray[np.bool_],
) -> list[Alert]:
    state, found, rows = Rearm(plan.rearm, hold=plan.hold), [], {}
    # What must last is looked at at each decision; else only those with evidence change anything.
    evident = asked if plan.hold else (judgement.fires | judgement.holds) & asked
    for at in np.flatnonzero(evident).tolist():
        moment = float(ends[first + at])
        rows[moment] = first + at
        for turn, episode in state.step(moment, bool(judgement.fires[at]), bool(judgement.holds[at])):
            if turn == "firing":
                found.append((first + at, episode, at))
    return [
        Alert(
            row=row,
            last=rows[episode.last],
            over=float(ends[-1]) - episode.last >= plan.rearm,
            value=float(values[row]),
            expected=float(expected[row]),
            log_rate=float(judgement.log_rate[at]),
        )
        for row, episode, at in found
    ]
