"""salience model train, and what other commands show of what it made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commandline import answer, salience, workplace

from pipeline.commands import texts as texts_commands
from schemas.scores import Answer, EntityResult, HeadResult, Score, Word


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return workplace(tmp_path, monkeypatch)


# Training


@pytest.fixture
def arguments(random_base: Path, folder: Path) -> list[str]:
    """A short run over the tiny base."""
    from tiny_bundle import RECIPE, tiny_data, to_toml

    training = {**RECIPE["training"], "epochs": 1}
    (folder / "r.toml").write_text(to_toml({**RECIPE, "base": str(random_base), "training": training}))
    tiny_data(folder / "data")
    return ["model", "train", "r.toml", "--data", "data", "--out", "made/bundle", "--precision", "fp32"]


def test_train_writes_a_bundle_shows_progress_and_answers_with_its_figures(arguments: list[str]) -> None:
    result = salience(*arguments, "--json", "--threads", "1")
    assert "epoch 1 of 1: validation " in result.stderr
    assert "texts/s: loss " in result.stderr
    found = answer("model", "info", "--bundle", "made/bundle")
    assert found["identity"].startswith("tiny@")
    assert '"entity_f1":' in result.stdout and '"cosine_to_base":' in result.stdout


def test_a_stopped_run_says_that_the_same_command_goes_on(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from models import train

    def stopped(*_: Any, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stopped)
    assert "the same command goes on from the last checkpoint" in salience(*arguments, status=130).stderr


def test_refit_writes_another_bundle_with_its_figures_and_leaves_the_first(tiny: Path, folder: Path) -> None:
    words = ["model", "refit", "--bundle", str(tiny), "--data", str(tiny.parent / "data"), "--out", "made/again"]
    found = answer(*words, "--precision", "fp32", "--threads", "1")
    assert found["heads"]["sentiment"]["fp32"]["n"] > 0
    assert answer("model", "info", "--bundle", "made/again")["identity"].startswith("tiny@")

    problem = answer(*words, "--recipe", "nowhere", status=2)["error"]
    assert "There is no recipe nowhere" in problem["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["nowhere"],
            "There is no recipe nowhere; give a TOML file, or one of those that come along: ",
        ),
        (["market-minilm", "--precision", "fp8"], "the precision 'fp8' is unknown; choose fp32, fp16 or int8"),
    ],
)
def test_bad_usage_gets_a_sentence_before_anything_is_read(words: list[str], told: str) -> None:
    problem = answer("model", "train", *words, "--data", "d", "--out", "o", status=2)["error"]

    assert (told in problem["message"], problem["reason"]) == (True, "usage")


def test_data_that_are_not_there_get_a_sentence(arguments: list[str], folder: Path) -> None:
    (folder / "data" / "firms.jsonl").unlink()

    assert "data/firms.jsonl cannot be read" in salience(*arguments, status=2).stderr


def test_training_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "models.train", None)
    told = salience("model", "train", "market-minilm", "--data", "d", "--out", "o", status=2).stderr

    assert "pip install 'salience[train]'" in told


# What a bundle is


def test_info_shows_kinds_streams_and_thresholds(tiny: Path) -> None:
    shown = salience("model", "info", "--bundle", str(tiny)).stdout

    assert "sentiment (label) for news, behavior: negative, neutral, positive" in shown
    assert "entity_sentiment (span of what entity finds) for news" in shown
    assert "none below a cosine of" in shown
    assert "embedding (embedding) for news, chat, behavior: (a vector)" in shown


# What a score is


def shown(monkeypatch: pytest.MonkeyPatch, *heads: tuple[str, HeadResult], **fields: Any) -> str:
    score = Score(dict(heads), **fields)

    def scored(_settings: object, given: Sequence[str], _stream: str) -> tuple[str, list[tuple[str, Score]]]:
        return "b@1", [(text, score) for text in given]

    monkeypatch.setattr(texts_commands, "score_texts", scored)
    return salience("score", "a text").stdout


def test_entities_are_shown_with_what_is_said_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"entity_sentiment": Answer("positive", 0.91, "label", [Word("rises", 0.6)])}
    entities = [EntityResult("Apple", 0, 5, "company", 0.97, said), EntityResult("[/x]", 9, 13, "company", 0.5)]

    text = shown(monkeypatch, ("entity", HeadResult("company", 0.97, "label", [], entities)))

    assert "entity      Apple  company  0.97" in text
    assert "entity_sentiment  positive  0.91   rises 0.60" in text
    assert "[/x]  company" in text


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (HeadResult("positive", 0.4, "unsure"), "unsure (positive?)  0.40"),
        (HeadResult("top_up", 0.4, "none"), "none of these (top_up?)"),
        (HeadResult("positive", 0.4, "unsupported"), "unsupported language (positive?)"),
        (HeadResult("", 0.0, "none", [], []), "none in this text"),
        (HeadResult("", 0.0, "unsupported", [], []), "unsupported language"),
    ],
)
def test_why_there_is_no_label_is_said(monkeypatch: pytest.MonkeyPatch, result: HeadResult, told: str) -> None:
    assert told in shown(monkeypatch, ("head", result))


def test_how_much_of_a_long_text_was_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ("sentiment", HeadResult("positive", 0.9))

    assert "62% of it was left out" in shown(monkeypatch, head, truncated=True, truncated_share=0.62)
    assert answer("score", "a text")["scores"][0]["truncated_share"] == 0.62
