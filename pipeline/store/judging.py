"""Judging a definition's groups over some buckets, as decisions do, and whoever asks again what they rested on."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, ShareRule
from pipeline.store.panels import Baselines, Counts, Fitted, Known
from pipeline.surge.baseline import Baseline
from pipeline.surge.groups import Judged, Panel, Span, candidates, judge_counts, judge_shares, needs
from pipeline.surge.share import Confusion, ShareBaseline

Ints = NDArray[np.int64]


async def judge_span(
    connection: AsyncConnection,
    counts: Counts,
    span: Span,
    known: Mapping[str, Known],
    runs: int,
    baselines: Baselines,
    confusion: Confusion | None,
) -> tuple[Panel, Judged]:
    """The groups of a definition, and what is found wherever one could fire or go on.

    runs: number of back-fills that were counted. confusion: of the head, for a share.
    """
    panel = await counts.panel(connection, span, known)
    watched = np.isin(counts.labels, _watched(counts.rule))
    places = candidates(panel, span, counts.plan, counts.rule.kind, watched)
    needed = needs(panel, span, counts.plan, places)
    fitted = await baselines.of(connection, counts, needed, known, runs, confusion)
    able = np.array([fitted[each] is not None for each in needed], dtype=bool)
    use = [cast(Fitted, fitted[each]) for each in needed if fitted[each] is not None]
    return panel, _judged(panel, span, counts, (places[0][able], places[1][able]), use, confusion)


def _watched(rule: CountRule) -> Sequence[str]:
    return rule.label if isinstance(rule, ShareRule) else ("",)


def _judged(
    panel: Panel,
    span: Span,
    counts: Counts,
    places: tuple[Ints, Ints],
    use: Sequence[Fitted],
    confusion: Confusion | None,
) -> Judged:
    if confusion is not None and isinstance(counts.rule, ShareRule):
        shares = cast(Sequence[ShareBaseline], use)
        return judge_shares(panel, span, counts.plan, places, shares, confusion, counts.rule.label)
    return judge_counts(panel, span, counts.plan, counts.rule.kind, places, cast(Sequence[Baseline], use))
