"""Figures of an evaluation, against those of others that compute them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

from sklearn.metrics import f1_score, roc_auc_score
from tiny_bundle import write_rows

from models import fewshot, figures
from models.bootstrap import (
    auroc,
    class_intervals,
    difference,
    entity_intervals,
    label_intervals,
)
from models.data import Span, spans_of
from models.figures import Scored, coverage, ece, entity_figures, interval, label_figures
from models.gazetteer import Gazetteer, read_names, short

pytestmark = pytest.mark.train

SENTIMENTS = ("negative", "neutral", "positive")
TYPES = ("company", "day")


def some_answers(count: int = 200, labels: int = 3) -> Scored:
    """Chances that are right more often than not, surest first."""
    draw = np.random.default_rng(3)
    true = draw.integers(0, labels, count)
    raw = draw.random((count, labels)) + 0.7 * np.eye(labels)[true]
    chances = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(-chances.max(axis=1), kind="stable")
    return Scored(true[order], chances[order])


def test_intervals_are_those_of_resampling_each_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 50)
    answers = some_answers()
    found = label_intervals(answers, 3)

    def resampled(metric: Any) -> list[float]:
        return interval(len(answers.true), lambda chosen: metric(answers.true[chosen], answers.chances[chosen]))

    assert found["ece"] == pytest.approx(resampled(lambda true, chances: ece(Scored(true, chances))), abs=2e-4)
    covered = resampled(lambda true, chances: coverage(Scored(true, chances), 0.95))
    assert found["coverage_at_95"] == pytest.approx(covered, abs=0.05)
    weighted = resampled(lambda true, chances: f1_score(true, chances.argmax(axis=1), average="weighted"))
    assert found["weighted_f1"] == pytest.approx(weighted, abs=2e-4)


def test_each_figure_lies_in_its_interval() -> None:
    answers = some_answers()
    said = label_figures(answers, SENTIMENTS)

    for name, (low, high) in label_intervals(answers, 3).items():
        if name != "ece":  # resampling adds noise, and noise adds to this one
            assert low <= said[name] <= high
    for label, (low, high) in zip(SENTIMENTS, class_intervals(answers.true, answers.found, 3), strict=True):
        assert low <= said["per_class"][label]["f1"] <= high


def test_the_difference_of_two_models_is_paired() -> None:
    true = np.array([0, 0, 1, 1])
    found = difference(true, true, np.array([0, 1, 1, 1]), 2)

    assert found["accuracy"] == 0.25
    assert found["macro_f1"] == pytest.approx(1 - (2 / 3 + 4 / 5) / 2, abs=1e-4)
    assert difference(true, true, true, 2)["interval"] == {"accuracy": [0.0, 0.0], "macro_f1": [0.0, 0.0]}


def test_the_area_under_the_curve_is_that_of_scikit_learn_with_ties() -> None:
    draw = np.random.default_rng(0)
    scores, positive = draw.integers(0, 9, 300).astype(float), draw.random(300) < 0.3

    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_the_f1_of_entities_is_that_of_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval: install salience[dev]")
    draw = np.random.default_rng(1)
    names = ["O", "B-company", "I-company", "B-day", "I-day"]
    true, found = ([[names[n] for n in draw.integers(0, 5, 9)] for _ in range(80)] for _ in range(2))
    words = [(number, number + 1) for number in range(9)]
    pairs = [(spans_of(words, a), spans_of(words, b)) for a, b in zip(true, found, strict=True)]

    said = entity_figures(pairs, TYPES)

    assert said["entity_f1"] == pytest.approx(seqeval.f1_score(true, found), abs=1e-4)
    low, high = entity_intervals(pairs, TYPES)["entity_f1"]
    assert low < said["entity_f1"] < high
    assert set(entity_intervals(pairs, TYPES)["per_class"]) == {"company", "day"}


def test_ten_texts_a_label_are_drawn_and_the_rest_is_asked() -> None:
    true = np.array([0] * 15 + [1] * 12 + [2] * 5)
    drawn = fewshot.draws(true)

    for shots, rest in drawn:
        assert np.bincount(true[shots]).tolist() == [10, 10]
        assert sorted([*shots, *rest]) == list(range(27))
    assert len({tuple(sorted(shots)) for shots, _ in drawn}) == len(fewshot.SEEDS)


def test_vectors_that_tell_labels_apart_beat_those_that_do_not() -> None:
    true = np.repeat([0, 1], 30)
    good = np.eye(2, dtype=np.float32)[true]
    bad = np.eye(2, dtype=np.float32)[np.random.default_rng(0).integers(0, 2, 60)]
    drawn = fewshot.draws(true)
    ours, theirs = (fewshot.of_prototypes(vectors, true, drawn) for vectors in (good, bad))

    assert fewshot.figures(ours) == {"accuracy": 1.0, "interval": {"accuracy": [1.0, 1.0]}}
    assert fewshot.compared(ours, theirs)["interval"]["accuracy"][0] > 0


def test_the_longest_name_is_found_and_only_as_it_is_written() -> None:
    names = Gazetteer(["Apple", "Apple Hospitality", "S&P Global"])

    assert names.find("Apple Hospitality beats apple; S&P Global, Apple", "company") == [
        Span(0, 17, "company"),
        Span(31, 41, "company"),
        Span(43, 48, "company"),
    ]


def test_names_come_from_columns_and_lists_and_lose_their_legal_form(tmp_path: Path) -> None:
    listed = write_rows(tmp_path / "a.jsonl", [{"symbol": "X", "aliases": ["Prime Focus Ltd", "PFOCUS"]}])
    (tmp_path / "b.csv").write_text("ticker,company\nGOOG,Alphabet Inc. (Class C)\n")

    found = read_names([listed, tmp_path / "b.csv"])

    assert found == ["Prime Focus Ltd", "Prime Focus", "PFOCUS", "Alphabet Inc. (Class C)", "Alphabet"]
    assert short("Ltd") == "Ltd"
