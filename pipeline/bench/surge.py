"""What `salience bench surge` measures: our detector on labelled series, and beside it what others use."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.bench.nab import Points, Topic, points, read_topics, rearmed, together
from pipeline.surge.series import Series, follow
from pipeline.surge.volume import Plan

Floats = NDArray[np.float64]

_HOUR = 3600.0
# The usual rule of monitoring products: the last hour is so many times the mean of the past twelve.
_PAST = 12
# The usual control chart: mean and variance with weights that fall with age, over about a day.
_MEMORY = 24 * _HOUR
# What these two rules may ask for: times the mean, and standard deviations.
_LEVELS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0)


class TopicResult(Struct, frozen=True):
    """Our figures on one topic."""

    topic: str
    score: float
    windows_hit: int
    windows: int
    false_per_week: float


class SurgeResult(Struct, frozen=True):
    """Figures at the default sensitivity; scores from 0, nothing found, to 100."""

    score: float
    windows_hit: int
    windows: int
    false_per_topic_week: float
    commercial_score: float
    ewma_score: float
    per_topic: list[TopicResult]


def measure_surges(folder: str) -> SurgeResult:
    """Score the topics of a folder.

    Ours has nothing to choose but the sensitivity, which is the default. The two others have no sensitivity: the
    level that each asks for is the one that is best on the other topics.

    Raises:
        UsageError: a file is absent or cannot be read.
    """
    plan = Plan()
    topics = read_topics(folder)
    ours = [_ours(topic, plan) for topic in topics]
    whole = together(ours)
    return SurgeResult(
        score=round(whole.score, 1),
        windows_hit=whole.hit,
        windows=whole.windows,
        false_per_topic_week=round(whole.false / whole.weeks, 2),
        commercial_score=round(_left_out(topics, [_commercial(topic) for topic in topics], plan), 1),
        ewma_score=round(_left_out(topics, [_ewma(topic) for topic in topics], plan), 1),
        per_topic=[_result(topic, each) for topic, each in zip(topics, ours, strict=True)],
    )


def _result(topic: Topic, found: Points) -> TopicResult:
    false = round(found.false / found.weeks, 2)
    return TopicResult(topic.series.name, round(found.score, 1), found.hit, found.windows, false)


def _ours(topic: Topic, plan: Plan) -> Points:
    return points(topic, [alert.row for alert in follow(topic.series, plan).alerts])


def _left_out(topics: list[Topic], evidence: list[Floats], plan: Plan) -> float:
    """The score of a rule whose level for each topic is chosen on the others (on itself when alone)."""
    found = [
        [
            points(topic, rearmed(np.flatnonzero(each > level), round(plan.rearm / topic.series.step)))
            for level in _LEVELS
        ]
        for topic, each in zip(topics, evidence, strict=True)
    ]
    chosen = []
    for at, ours in enumerate(found):
        others = found[:at] + found[at + 1 :] or [ours]
        best = max(range(len(_LEVELS)), key=lambda level: together([each[level] for each in others]).score)
        chosen.append(ours[best])
    return together(chosen).score


def _commercial(topic: Topic) -> Floats:
    """The last hour over the mean of the twelve before."""
    hours, past = hourly(topic.series), _PAST * round(_HOUR / topic.series.step)
    ratio = np.zeros(len(hours))
    before = moving(topic.series.counts, past)
    hour = past // _PAST
    ratio[past + hour :] = hours[past + hour :] / np.maximum(before[past:-hour] / _PAST, 1.0)
    return ratio


def _ewma(topic: Topic) -> Floats:
    """Each row's hour in standard deviations from what came before it."""
    hours, weight = hourly(topic.series), topic.series.step / _MEMORY
    mean, variance, found = float(hours[0]), 0.0, []
    for value in hours.tolist():
        away = value - mean
        found.append(away / max(variance, 1.0) ** 0.5)
        mean += weight * away
        variance = (1 - weight) * (variance + weight * away * away)
    return np.array(found)


def hourly(series: Series) -> Floats:
    """The count of the hour that ends with each row."""
    return moving(series.counts, max(1, round(_HOUR / series.step)))


def moving(counts: Floats, rows: int) -> Floats:
    """Sums over the last `rows` rows."""
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    at = np.arange(1, len(sums))
    total: Floats = sums[at] - sums[np.maximum(at - rows, 0)]
    return total
