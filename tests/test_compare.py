"""Two bundles over the same texts: what changes, with examples and figures."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commandline
import pytest
from bundles import NamedScorer
from commandline import answer, salience
from msgspec.structs import replace

from models.compare import Truth, compare, figures
from models.stub import StubScorer
from pipeline import comparing
from schemas.errors import UsageError
from schemas.scores import Score

TEXTS = [f"shares rise {number}" for number in range(40)]


class Sideways(NamedScorer):
    """Answers sentiment with one label, is unsure of each topic, and turns its vectors round."""

    def score(self, texts: Sequence[str], stream: str, *more: Any) -> list[Score]:
        return [self._turned(score) for score in super().score(texts, stream, *more)]

    def _turned(self, score: Score) -> Score:
        heads = {**score.heads, "topic": replace(score.heads["topic"], decision="unsure")}
        turned = bytes(-(byte - 256 if byte > 127 else byte) % 256 for byte in score.embedding)
        return replace(score, heads=heads, embedding=turned)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return commandline.workplace(tmp_path, monkeypatch)


def sentiments() -> list[str]:
    return [score.heads["sentiment"].label for score in StubScorer().score(TEXTS, "news")]


def test_a_bundle_beside_itself_changes_nothing() -> None:
    found = compare(StubScorer(), StubScorer(), TEXTS, "news")
    assert (found.n, found.refused, found.a.only_here, found.b.only_here) == (40, 0, [], [])
    assert set(found.heads) == {"sentiment", "topic"}
    for head in found.heads.values():
        assert (head.n, head.equal_labels, head.equal_decisions, head.changes) == (40, 1.0, 1.0, [])
    assert found.cosine == pytest.approx(1.0)
    assert found.a.texts_per_s > 0 and found.b.texts_per_s > 0


def test_changes_are_counted_the_most_frequent_first_with_two_texts_each() -> None:
    head = compare(StubScorer(), NamedScorer("b@1"), TEXTS, "news").heads["sentiment"]
    said = sentiments()
    assert head.equal_labels == said.count("positive") / 40
    counts = {change.before: (change.after, change.count) for change in head.changes}
    assert counts == {label: ("positive", said.count(label)) for label in ("negative", "neutral")}
    assert [change.count for change in head.changes] == sorted((n for _, n in counts.values()), reverse=True)
    for change in head.changes:
        assert (
            change.examples
            == [text for text, label in zip(TEXTS, said, strict=True) if label == change.before][:2]
        )


def test_a_decision_that_changes_is_told_though_the_label_stays() -> None:
    head = compare(StubScorer(), Sideways("b@1"), TEXTS, "news").heads["topic"]
    assert (head.equal_labels, head.equal_decisions) == (1.0, 0.0)
    assert all(change.after == f"{change.before} (unsure)" for change in head.changes)


def test_the_cosine_is_the_mean_over_texts() -> None:
    assert compare(StubScorer(), Sideways("b@1"), TEXTS, "news").cosine == pytest.approx(-1.0)


def test_vectors_of_different_widths_have_no_cosine() -> None:
    class Narrow(StubScorer):
        def score(self, texts: Sequence[str], stream: str, *more: Any) -> list[Score]:
            return [replace(score, embedding=score.embedding[:8]) for score in super().score(texts, stream, *more)]

    assert compare(StubScorer(), Narrow(), TEXTS, "news").cosine is None


def test_a_head_that_one_lacks_is_named() -> None:
    found = compare(StubScorer(), NamedScorer("b@1", heads=False), TEXTS, "news", Truth("sentiment", sentiments()))
    assert (found.heads, found.a.only_here, found.b.only_here) == ({}, ["sentiment", "topic"], [])
    assert found.a.figures is not None and found.a.figures.accuracy == 1.0
    assert found.b.figures is None


def test_a_text_that_one_refuses_is_left_out_and_counted() -> None:
    found = compare(StubScorer(refuse="rise 7"), StubScorer(), TEXTS, "news")
    assert (found.n, found.refused, found.heads["topic"].n) == (39, 1, 39)


def test_rows_with_labels_give_accuracy_and_macro_f1_of_both() -> None:
    said: list[str | None] = [*sentiments()]
    said[0] = None
    found = compare(StubScorer(), NamedScorer("b@1"), TEXTS, "news", Truth("sentiment", said))
    assert found.a.figures is not None and found.b.figures is not None
    assert (found.a.figures.n, found.a.figures.accuracy, found.a.figures.macro_f1) == (39, 1.0, 1.0)
    share = said.count("positive") / 39
    assert found.b.figures.accuracy == pytest.approx(share)
    assert found.b.figures.macro_f1 == pytest.approx(2 * share / (1 + share) / 3)


def test_the_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, said = list("aabbbcc"), list("abbbcdc")
    found = figures(truth, said)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, said, average="macro", zero_division=0))


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        (Truth("intent", ["x"] * 40), "neither bundle has a head 'intent' for news; there are sentiment, topic"),
        (Truth("sentiment", [*["neutral"] * 39, "bullish"]), "text 40 has the label 'bullish'.*knows negative"),
        (Truth("sentiment", [None] * 40), "no row has a label for sentiment"),
    ],
)
def test_labels_that_cannot_be_are_refused_before_anything_is_scored(truth: Truth, told: str) -> None:
    class Never(StubScorer):
        def score(self, texts: Sequence[str], stream: str, *more: Any) -> list[Score]:
            raise AssertionError("scored")

    with pytest.raises(UsageError, match=told):
        compare(Never(), Never(), TEXTS, "news", truth)


def test_the_command_compares_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorers: dict[str, Any] = {"stub": StubScorer(), str(folder): NamedScorer("b@1")}
    monkeypatch.setattr(comparing, "open_scorer", lambda settings, path: scorers[path])
    (folder / "manifest.json").write_text("{}")
    lines = [
        json.dumps({"headline": text, "said": label}) for text, label in zip(TEXTS, sentiments(), strict=True)
    ]
    (folder / "rows.jsonl").write_text("\n".join([*lines, json.dumps({"headline": " "})]))
    words = ["model", "compare", "stub", str(folder), "--data", "rows.jsonl", "--map", "text=headline"]
    found = answer(*words, "--label-field", "said", "--head", "sentiment")
    assert (found["n"], found["a"]["bundle"], found["b"]["bundle"]) == (40, "stub@000000000001", "b@1")
    assert found["a"]["figures"]["accuracy"] == 1.0
    assert found["heads"]["sentiment"]["changes"][0]["after"] == "positive"
    shown = salience(*words).stdout
    assert "-> positive" in shown
    assert "shares rise" in shown


def test_a_text_file_has_a_text_a_line(folder: Path) -> None:
    (folder / "texts.txt").write_text("shares rise\n\nshares fall\n")
    assert answer("model", "compare", "stub", "stub", "--data", "texts.txt")["n"] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stub", "stub", "--data", "none.jsonl"], "the file none.jsonl cannot be read"),
        (["stub", "stub", "--data", "empty.jsonl"], "there is no text to compare by"),
        (["stub", "stub", "--data", "empty.jsonl", "--stream", "mail"], "'mail' is no stream"),
        (["stub", "stub", "--data", "empty.jsonl", "--head", "topic"], "--head and --label-field go together"),
        (
            ["stub", "nowhere", "--data", "empty.jsonl"],
            "nowhere: no bundle's folder, and promoted ones",
        ),
    ],
)
def test_bad_usage_gets_a_sentence(words: list[str], told: str, folder: Path) -> None:
    (folder / "empty.jsonl").write_text("")
    assert told in salience("model", "compare", *words, status=2).stderr


def test_comparing_loads_no_training_packages() -> None:
    code = "import sys, pipeline.commands.compare; print([n for n in ('torch', 'sklearn') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
