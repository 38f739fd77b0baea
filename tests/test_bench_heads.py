"""The cost of the heads: a ratio of CPU time over the same batches."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.bench import heads
from pipeline.bench.heads import HeadCost, head_cost


class Timed:
    """Takes 2 s for the encoder and 3 s for all heads, a batch, on a clock of its own."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.asked: list[str] = []

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        return list(texts)

    def embed(self, batch: Any) -> None:
        self.asked.append("encoder")
        self.clock += 2.0

    def infer(self, batch: Any, stream: str) -> None:
        self.asked.append(stream)
        self.clock += 3.0


def test_both_are_asked_about_the_same_batches_in_turn_and_set_against_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = Timed()
    monkeypatch.setattr(heads, "time", SimpleNamespace(process_time=lambda: scorer.clock))

    cost = head_cost(scorer, ["a", "b"], "news", repeats=2)

    assert scorer.asked == ["encoder", "encoder", "news", "news"] * 2
    assert cost == HeadCost(2, 4.0, 6.0, 1.5, [1.5, 1.5])
