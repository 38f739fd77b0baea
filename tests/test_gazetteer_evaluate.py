"""Figures of a gazetteer are counted as they are named, on rows that chose nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.gazetteer.evaluate import evaluate, halves, read_texts
from pipeline.gazetteer.load import Company
from pipeline.gazetteer.match import Gazetteer
from schemas.errors import UsageError

GAZETTEER = Gazetteer([Company("Corvane", "CRV"), Company("Nokia", "NOK")])


def texts(tmp_path: Path, *rows: Any) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_texts(str(path))


def test_spans_count_by_their_ends_and_by_what_they_share(tmp_path: Path) -> None:
    rows = texts(
        tmp_path,
        {"text": "Corvane and Acme rise", "entities": {"Corvane": "positive", "Acme": "neutral"}},
        {"text": "Old Nokia rises", "entities": [{"start": 0, "end": 9}]},
    )

    result = evaluate(GAZETTEER, rows)

    assert (result.exact.precision, result.exact.recall) == (1 / 2, 1 / 3)
    assert (result.overlap.precision, result.overlap.recall) == (1.0, 2 / 3)
    assert (result.exact.known, result.exact.known_recall) == (1, 1.0)


def test_tickers_count_also_without_their_signs(tmp_path: Path) -> None:
    result = evaluate(GAZETTEER, texts(tmp_path, {"text": "Nokia $CRV", "tickers": ["CRV"]}))

    assert (result.exact.precision, result.exact.recall) == (0.5, 1.0)
    assert result.without_cashtags is not None
    assert result.without_cashtags.recall == 0.0


def test_a_row_is_always_in_the_same_half(tmp_path: Path) -> None:
    rows = texts(tmp_path, *({"text": f"text {number}", "tickers": []} for number in range(100)))
    choosing, reported = halves(rows)

    assert len(choosing) + len(reported) == 100
    assert 30 < len(choosing) < 70
    assert halves(reversed(rows))[0] == choosing[::-1]


def test_a_row_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2: give text, and entities"):
        texts(tmp_path, {"text": "a", "tickers": []}, {"text": "b"})
