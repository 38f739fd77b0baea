"""Judging a definition's groups over some buckets, as decisions do, and whoever asks again what they rested on."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, ShareRule
from pipeline.store.baselines import Baselines, Basis, Fitted
from pipeline.store.panels import Counts
from pipeline.store.readings import Reading
from pipeline.surge.baseline import Baseline
from pipeline.surge.groups import Judged, Panel, Span, candidates, judge_counts, judge_shares, needs
from pipeline.surge.share import ShareBaseline

Ints = NDArray[np.int64]


async def judge_span(
    connection: AsyncConnection, basis: Basis, span: Span, baselines: Baselines
) -> tuple[Panel, Judged] | None:
    """The groups of a definition, and what is found wherever one could fire or go on.

    None while baselines are still to be made: what was made is kept.
    """
    counts = basis.counts
    panel = await counts.panel(connection, span, basis.known)
    watched = np.isin(counts.labels, _watched(counts.rule))
    places = candidates(panel, span, counts.plan, counts.rule.kind, watched)
    needed = needs(panel, span, counts.plan, places)
    fitted = await baselines.of(connection, basis, needed)
    if fitted is None:
        return None
    able = np.array([fitted[each] is not None for each in needed], dtype=bool)
    use = [cast(Fitted, fitted[each]) for each in needed if fitted[each] is not None]
    return panel, _judged(panel, span, counts, (places[0][able], places[1][able]), use, basis.reading)


def _watched(rule: CountRule) -> Sequence[str]:
    return rule.label if isinstance(rule, ShareRule) else ("",)


def _judged(
    panel: Panel,
    span: Span,
    counts: Counts,
    places: tuple[Ints, Ints],
    use: Sequence[Fitted],
    reading: Reading | None,
) -> Judged:
    if reading is not None and isinstance(counts.rule, ShareRule):
        shares = cast(Sequence[ShareBaseline], use)
        return judge_shares(panel, span, counts.plan, places, shares, reading.confusion, counts.rule.label)
    return judge_counts(panel, span, counts.plan, counts.rule.kind, places, cast(Sequence[Baseline], use))
