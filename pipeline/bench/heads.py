"""What the heads cost: all of them, spans included, beside the encoder alone, on the same batches in turn."""

import time
from collections.abc import Callable, Sequence
from statistics import median

from msgspec import Struct

from models.runtime import OnnxScorer
from models.tokens import Batch


class HeadCost(Struct):
    """Seconds for all texts, medians of the runs; `ratio` is the median of each run's all heads over encoder."""

    texts: int
    encoder: float
    heads: float
    ratio: float
    ratios: list[float]


def head_cost(scorer: OnnxScorer, texts: Sequence[str], stream: str, repeats: int) -> HeadCost:
    """Time the encoder with its sentence vector, and everything that a stream's texts are asked."""
    batches = scorer.prepare(texts)
    encoder: list[float] = []
    heads: list[float] = []
    for _ in range(repeats):
        encoder.append(_seconds(batches, scorer.embed))
        heads.append(_seconds(batches, lambda batch: scorer.infer(batch, stream)))
    ratios = [round(whole / alone, 4) for whole, alone in zip(heads, encoder, strict=True)]
    return HeadCost(len(texts), round(median(encoder), 3), round(median(heads), 3), median(ratios), ratios)


def _seconds(batches: Sequence[Batch], step: Callable[[Batch], object]) -> float:
    begun = time.perf_counter()
    for batch in batches:
        step(batch)
    return time.perf_counter() - begun
