"""What the heads cost: all of them, spans included, beside the encoder alone, on the same batches in turn.

In CPU time of one thread, which whatever else runs on the machine moves little.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol

from msgspec import Struct

from models.tokens import Batch


class HeadCost(Struct):
    """CPU seconds for all texts, medians of the runs; `ratio` is the median of all heads over the encoder."""

    texts: int
    encoder: float
    heads: float
    ratio: float
    ratios: list[float]


class Asks(Protocol):
    """The part of `OnnxScorer` that is timed; it must run on one thread."""

    def prepare(self, texts: Sequence[str]) -> list[Batch]: ...
    def embed(self, batch: Batch) -> object: ...
    def infer(self, batch: Batch, stream: str) -> object: ...


def head_cost(scorer: Asks, texts: Sequence[str], stream: str, repeats: int) -> HeadCost:
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
    begun = time.process_time()
    for batch in batches:
        step(batch)
    return time.process_time() - begun
