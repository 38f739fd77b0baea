"""Decisions on all groups of a rule at once, over one bucket (live) or many (catching up, or a back-test).

What is decided at a bucket depends on that bucket and earlier ones only, so that it is the same in whichever spans
the buckets are taken.
"""

import bisect
import zlib
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.surge.absence import judge_silence, silences
from pipeline.surge.baseline import DAY, Baseline
from pipeline.surge.rearm import Episode, Rearm, Turn
from pipeline.surge.share import Confusion, ShareBaseline, judge_share
from pipeline.surge.volume import Judgement, Plan, judge, usual

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Seconds for which a group that was heard of has a share in the sensitivity.
ACTIVE = 14 * DAY

# A group, and until when the counts go of which its baseline is made (seconds since 1970).
Need = tuple[str, int]


class Span(Struct, frozen=True):
    """The buckets [first, last] that are decided on, each at its end; `every` is their width in seconds."""

    first: int
    last: int
    every: float

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    @property
    def ends(self) -> Floats:
        """When the buckets end, seconds since 1970."""
        ends: Floats = np.arange(self.first + 1, self.last + 2).astype(float) * self.every
        return ends


class Panel(Struct, frozen=True):
    """Groups and their counts.

    heard: groups x buckets of the span: whether there was any event. before: the last bucket with an event before
    the span, a large negative number where there was none. windows: groups x labels x buckets of the span: counts
    of the windows that end with them. quiet: last buckets of groups that are not listed, in ascending order.
    """

    names: Sequence[str]
    heard: Flags
    before: Ints
    windows: Floats
    quiet: Ints

    def last(self, span: Span) -> Ints:
        """Groups x buckets: the last bucket with an event."""
        numbers = np.where(self.heard, np.arange(span.first, span.last + 1), self.before[:, None])
        last: Ints = np.maximum.accumulate(numbers, axis=1)
        return last

    def active(self, span: Span) -> Floats:
        """How many groups share the sensitivity at each bucket."""
        oldest = np.arange(span.first, span.last + 1) - int(ACTIVE / span.every)
        listed = (self.last(span) > oldest).sum(axis=0)
        others = len(self.quiet) - np.searchsorted(self.quiet, oldest, side="right")
        together: Floats = np.maximum(listed + others, 1).astype(float)
        return together


class Judged(NamedTuple):
    """Decisions that are worth a look: group and bucket (places in panel and span), and what was found there."""

    group: Ints
    bucket: Ints
    judgement: Judgement
    value: Floats
    expected: Floats


class Change(NamedTuple):
    """What becomes of a group's alert at a moment (seconds since 1970), and on which evidence."""

    moment: float
    group: str
    turn: Turn
    episode: Episode
    value: float
    expected: float
    log_rate: float


def sliding(counts: Floats, per: int) -> Floats:
    """Sums over windows of `per` buckets along the last axis, which begins `per` - 1 buckets before the span."""
    sums = np.cumsum(counts, axis=-1)
    moved: Floats = sums[..., per - 1 :].copy()
    moved[..., 1:] -= sums[..., : -per or None][..., : moved.shape[-1] - 1]
    return moved


def phase_of(group: str, plan: Plan) -> tuple[float, float]:
    """Phase and lag of a group's baselines (seconds), spread over all decisions; a plain series has none."""
    if not group:
        return 0.0, 0.0
    buckets, number = round(plan.refit / plan.bucket), zlib.crc32(group.encode())
    return number % buckets * plan.bucket, number // buckets % round(plan.bucket / plan.every) * plan.every


def candidates(panel: Panel, span: Span, plan: Plan, kind: str, watched: Flags) -> tuple[Ints, Ints]:
    """Places (group, bucket) at which a rule of this kind can fire or hold at all."""
    if kind == "absence":
        silent = np.arange(span.first, span.last + 1) - panel.last(span)
        long = silent * span.every >= plan.window
        group, bucket = np.nonzero(long & (silent * span.every < ACTIVE))
    else:
        group, bucket = np.nonzero(panel.windows[:, watched, :].sum(axis=1) >= plan.minimum)
    return group.astype(np.int64), bucket.astype(np.int64)


def needs(panel: Panel, span: Span, plan: Plan, places: tuple[Ints, Ints]) -> list[Need]:
    """The baseline of each place, in their order."""
    group, bucket = places
    ends = span.ends[bucket]
    phases = np.array([phase_of(name, plan) for name in panel.names]).reshape(-1, 2)
    until = plan.known_until(ends, phases[group, 0], phases[group, 1])
    return [(panel.names[at], int(moment)) for at, moment in zip(group.tolist(), until.tolist(), strict=True)]


def judge_counts(
    panel: Panel, span: Span, plan: Plan, kind: str, places: tuple[Ints, Ints], known: Sequence[Baseline]
) -> Judged:
    """Volume and absence; `known` has the baseline of each place."""
    group, bucket = places
    ends = span.ends[bucket]
    values = panel.windows[:, 0, :][group, bucket]
    if not len(group):
        return _nothing()
    facts = usual(known, plan, ends)
    active = panel.active(span)[bucket]
    if kind == "volume":
        return Judged(group, bucket, judge(plan, values, facts, active), values, facts.expected)
    last: Floats = (panel.last(span)[group, bucket] + 1).astype(float) * span.every
    missing = silences(known, ends, last)
    judgement = judge_silence(plan, ends - last, missing, facts, active)
    return Judged(group, bucket, judgement, np.zeros(len(group)), missing)


def judge_shares(
    panel: Panel,
    span: Span,
    plan: Plan,
    places: tuple[Ints, Ints],
    known: Sequence[ShareBaseline],
    confusion: Confusion,
    watched: Sequence[str],
) -> Judged:
    """Share; the panel's labels are those of the confusion matrix."""
    group, bucket = places
    if not len(group):
        return _nothing()
    counts = panel.windows.transpose(0, 2, 1)[group, bucket]
    found = judge_share(plan, counts, known, confusion, watched, panel.active(span)[bucket])
    return Judged(group, bucket, found.judgement, found.value, found.expected)


def _nothing() -> Judged:
    none = np.array([], dtype=np.int64)
    empty = np.array([])
    flags = np.array([], dtype=bool)
    return Judged(none, none, Judgement(empty, flags, flags), empty, empty)


def changes(
    plan: Plan, span: Span, names: Sequence[str], judged: Judged, firing: MutableMapping[str, Episode]
) -> list[Change]:
    """What becomes of alerts, by moment and group; `firing` has the open ones, and those that are open then."""
    evident = judged.judgement.fires | judged.judgement.holds
    by_group: dict[str, list[int]] = {name: [] for name in firing}
    for at in np.flatnonzero(evident).tolist():
        by_group.setdefault(names[int(judged.group[at])], []).append(at)
    found: list[Change] = []
    for name in sorted(by_group):
        state = Rearm(plan.rearm, firing.pop(name, None), plan.hold)
        found += _of_group(span, name, judged, by_group[name], state)
        if state.firing is not None:
            firing[name] = state.firing
    return sorted(found, key=lambda each: (each.moment, each.group, each.turn != "resolved"))


def _of_group(span: Span, name: str, judged: Judged, places: Sequence[int], state: Rearm) -> list[Change]:
    at_bucket = {int(judged.bucket[at]): at for at in places}
    ends = span.ends.tolist()
    found: list[Change] = []
    # While it is armed there is nothing to see between two buckets with evidence.
    evident = sorted(at_bucket)
    bucket = 0 if state.firing is not None else next(iter(evident), span.size)
    while bucket < span.size:
        at = at_bucket.get(bucket)
        fires, holds = (False, False) if at is None else _flags(judged, at)
        for turn, of in state.step(ends[bucket], fires, holds):
            found.append(_change(ends[bucket], name, turn, of, judged, at))
        bucket += 1
        if state.firing is None:
            later = bisect.bisect_left(evident, bucket)
            bucket = evident[later] if later < len(evident) else span.size
    return found


def _flags(judged: Judged, at: int) -> tuple[bool, bool]:
    return bool(judged.judgement.fires[at]), bool(judged.judgement.holds[at])


def _change(moment: float, name: str, turn: Turn, of: Episode, judged: Judged, at: int | None) -> Change:
    episode = Episode(of.start, of.last, of.end, of.due)
    if at is None:
        return Change(moment, name, turn, episode, 0.0, 0.0, 0.0)
    numbers = float(judged.value[at]), float(judged.expected[at]), float(judged.judgement.log_rate[at])
    return Change(moment, name, turn, episode, *numbers)
