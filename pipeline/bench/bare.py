"""The model alone: the same session and batch cutting as in a worker, over the whole list at once."""

import time
from collections.abc import Sequence
from statistics import mean, median

from models.runtime import OnnxScorer
from models.scorer import Scorer
from pipeline.bench.drive import Timing


def score_bare(scorer: Scorer, texts: Sequence[str], stream: str) -> Timing:
    """Score all texts; everything is sorted by length at once, which no stream allows."""
    begun, used = time.perf_counter(), time.process_time()
    if isinstance(scorer, OnnxScorer):
        batches = scorer.prepare(texts)
        scores = scorer.interpret(batches, [scorer.infer(batch, stream) for batch in batches], stream)
    else:
        scores = scorer.score(texts, stream)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    return Timing(len(texts), seconds, cpu, sum(score.tokens for score in scores))


def ratios(bare: Sequence[Timing], timings: Sequence[Timing]) -> list[float]:
    """End to end over bare: each run is held against the mean of the bare runs before and after it.

    So a machine that grows slower all the while does not move the figures; of these the median counts, which one
    disturbed run does not move either.
    """
    return [each.rate / mean(one.rate for one in bare[at : at + 2]) for at, each in enumerate(timings)]


def cpu_ratio(bare: Sequence[Timing], timings: Sequence[Timing]) -> float | None:
    """CPU time of a text bare over that of a text in the worker: hardly moved by what else runs on the machine."""
    ours = [each.cpu_per_event for each in timings if each.cpu_per_event]
    alone = [each.cpu_per_event for each in bare if each.cpu_per_event]
    return median(alone) / median(ours) if ours and alone else None
