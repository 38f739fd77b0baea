"""Evaluation: rows as questions, figures against those of others, and whole evaluations of a small bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import answer, salience, workplace

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
from models.bundle import Head
from models.data import Span, spans_of
from models.evaluate import KEYS, Asked, evaluate
from models.exam import read_exam
from models.figures import Scored, coverage, ece, entity_figures, interval, label_figures
from models.gazetteer import Gazetteer, read_names, short
from models.leaks import fingerprints
from models.runtime import load_scorer
from schemas.errors import UsageError

pytestmark = pytest.mark.train

SENTIMENT = Head(name="sentiment", kind="label", streams=("news",), labels=("negative", "neutral", "positive"))
ENTITY = Head(name="entity", kind="entity", streams=("news",), labels=("company", "day"))
SPAN = Head(name="entity_sentiment", kind="span", streams=("news",), labels=SENTIMENT.labels, spans="entity")
EMBEDDING = Head(name="embedding", kind="embedding", streams=("news",))
RENAMED = {"good": "positive", "bad": "negative"}


@pytest.fixture(scope="session")
def bundle(tiny: Path) -> Path:
    return tiny


@pytest.fixture
def data(bundle: Path) -> Path:
    """The folder of the rows that the bundle was trained on."""
    return bundle.parent / "data"


def some_answers(count: int = 200, labels: int = 3) -> Scored:
    """Chances that are right more often than not, surest first."""
    draw = np.random.default_rng(3)
    true = draw.integers(0, labels, count)
    raw = draw.random((count, labels)) + 0.7 * np.eye(labels)[true]
    chances = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(-chances.max(axis=1), kind="stable")
    return Scored(true[order], chances[order])


# Figures


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
    said = label_figures(answers, SENTIMENT.labels)

    for name, (low, high) in label_intervals(answers, 3).items():
        if name != "ece":  # resampling adds noise, and noise adds to this one
            assert low <= said[name] <= high
    for label, (low, high) in zip(SENTIMENT.labels, class_intervals(answers.true, answers.found, 3), strict=True):
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

    said = entity_figures(pairs, ENTITY.labels)

    assert said["entity_f1"] == pytest.approx(seqeval.f1_score(true, found), abs=1e-4)
    low, high = entity_intervals(pairs, ENTITY.labels)["entity_f1"]
    assert low < said["entity_f1"] < high
    assert set(entity_intervals(pairs, ENTITY.labels)["per_class"]) == {"company", "day"}


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


# Rows as questions


def ask(folder: Path, rows: list[dict[str, Any]], head: Head, **options: Any) -> Any:
    return read_exam(Asked(head.name, write_rows(folder / "rows.jsonl", rows), **options), head)


def test_labels_are_mapped_left_out_or_out_of_scope(tmp_path: Path) -> None:
    rows = [{"text": label, "label": label} for label in ("good", "neutral", "odd", "other")]

    exam = ask(tmp_path, rows, SENTIMENT, label_map={**RENAMED, "odd": "none", "other": ""})

    assert [example.text for example in exam.examples] == ["good", "neutral", "odd"]
    assert exam.true.tolist() == [2, 1, -1]


def test_a_star_maps_every_label_that_nothing_else_names(tmp_path: Path) -> None:
    rows = [{"text": label, "label": label} for label in ("good", "neutral", "odd", "other")]

    exam = ask(tmp_path, rows, SENTIMENT, label_map={"good": "positive", "odd": "", "*": "none"})

    assert exam.true.tolist() == [2, 1, -1]


def test_a_label_that_nobody_knows_is_told_with_file_line_and_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        ask(tmp_path, [{"text": "a", "label": "neutral"}, {"text": "b", "label": "great"}], SENTIMENT)

    for part in ("rows.jsonl, line 2", "'great'", "negative, neutral, positive", "great=none", "great="):
        assert part in str(caught.value)


def test_only_rows_with_the_asked_values_are_taken(tmp_path: Path) -> None:
    rows = [{"text": str(fold), "label": "neutral", "fold": fold} for fold in range(5)]

    exam = ask(tmp_path, rows, SENTIMENT, where={"fold": ("1", "3")})

    assert [example.text for example in exam.examples] == ["1", "3"]


def test_types_of_tags_are_mapped_and_those_unknown_are_counted_apart(tmp_path: Path) -> None:
    row = {"tokens": ["Acme", "of", "Rome"], "tags": ["B-ORG", "O", "B-LOC"]}

    exam = ask(tmp_path, [row], ENTITY, label_map={"ORG": "company"})

    assert exam.examples[0].spans == (Span(0, 4, "company"),)
    assert exam.labels == ("company",)
    assert exam.examples[0].annotated == ("company",)
    assert exam.not_counted == {"LOC": 1}


@pytest.mark.parametrize(
    "entities",
    [{"Acme": "positive"}, [{"start": 0, "end": 4, "text": "Acme", "label": "positive"}]],
    ids=["names", "spans"],
)
def test_entities_with_sentiments_are_companies_for_the_entity_task(tmp_path: Path, entities: Any) -> None:
    rows = [{"text": "Acme rises", "entities": entities}]

    assert ask(tmp_path, rows, ENTITY).examples[0].spans == (Span(0, 4, "company"),)
    assert ask(tmp_path, rows, ENTITY, entity_type="day").examples[0].spans == (Span(0, 4, "day"),)
    assert ask(tmp_path, rows, SPAN).examples[0].spans[0].label == "positive"


def test_entities_with_types_of_the_head_keep_them(tmp_path: Path) -> None:
    rows = [{"text": "Acme rises today", "entities": {"Acme": "company", "today": "day"}}]

    assert {span.type for span in ask(tmp_path, rows, ENTITY).examples[0].spans} == {"company", "day"}


def test_texts_that_differ_in_link_case_or_punctuation_have_one_fingerprint() -> None:
    assert len(fingerprints(["Crude FALLS https://t.co/a", "crude falls.", "crude rises"])) == 2


# Whole evaluations


def test_the_accuracy_is_that_of_the_served_labels(bundle: Path, data: Path) -> None:
    found = evaluate(Asked("sentiment", data / "sentiment.jsonl", str(bundle), RENAMED))
    exam = read_exam(Asked("sentiment", data / "sentiment.jsonl", label_map=RENAMED), SENTIMENT)
    scores = load_scorer(str(bundle), threads=1).score([example.text for example in exam.examples], "news")
    named = [SENTIMENT.labels.index(score.heads["sentiment"].label) for score in scores]

    assert found["accuracy"] == pytest.approx(float((np.array(named) == exam.true).mean()), abs=1e-4)
    assert found["macro_f1"] == pytest.approx(f1_score(exam.true, named, average="macro"), abs=1e-4)
    assert tuple(found) == KEYS
    assert np.sum(found["confusion"]) == found["n"] == len(exam.true)
    decided = [score.heads["sentiment"].decision for score in scores]
    assert found["decisions"]["unsure"] == pytest.approx(decided.count("unsure") / len(decided), abs=1e-4)


def test_rows_that_made_the_bundle_are_told_from_those_that_did_not(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    rows = [{"text": "Acme rises!", "label": "positive"}, {"text": "Nobody saw this one", "label": "neutral"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    known = evaluate(Asked("intent", data / "intents.jsonl", str(bundle)))
    found = evaluate(Asked("sentiment", path, str(bundle)))

    assert 0 < known["leaked"] < known["n"]
    assert known["without_leaked"]["n"] == known["n"] - known["leaked"]
    assert found["without_leaked"]["n"] == 2 - found["leaked"] > 0


def test_the_baseline_and_the_untouched_base_learn_from_the_same_rows(bundle: Path, data: Path) -> None:
    asked = Asked("sentiment", data / "sentiment.jsonl", str(bundle), RENAMED, train=data, before=True)
    found = evaluate(asked)

    for name in ("baseline", "before"):
        assert "LinearSVC" in found[name]["model"]
        low, high = found[name]["interval"]["accuracy"]
        assert low <= found[name]["accuracy"] <= high
        gap = found["accuracy"] - found[name]["accuracy"]
        assert found[name]["difference"]["accuracy"] == pytest.approx(gap, abs=2e-4)


def test_rows_out_of_scope_count_for_the_auroc_and_nothing_else(bundle: Path, data: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": "oos"} for text in ("who won the war", "a poem on rain", "play some jazz")]
    inside = [
        {"text": "my card is lost please", "label": "card_lost"},
        {"text": "the rate", "label": "exchange_rate"},
    ]
    alone = write_rows(tmp_path / "alone.jsonl", inside)
    mixed = write_rows(tmp_path / "mixed.jsonl", inside + rows)

    found = evaluate(Asked("intent", mixed, str(bundle), {"oos": "none"}))

    assert found["n"] == 2
    assert found["accuracy"] == evaluate(Asked("intent", alone, str(bundle)))["accuracy"]
    assert 0.0 <= found["auroc_none"] <= 1.0 and "auroc_none" in found["interval"]
    assert found["out_of_scope"]["n"] == 3
    assert found["out_of_scope"]["wrongly_none"] == found["decisions"]["none"]


def test_entities_stand_beside_a_gazetteer_and_a_tagger(bundle: Path, data: Path, tmp_path: Path) -> None:
    names = write_rows(tmp_path / "names.jsonl", [{"company": name} for name in ("Acme Inc.", "Vela", "Bolt")])
    asked = Asked("entity", data / "tags.jsonl", str(bundle), train=data, gazetteers=(names,))
    found = evaluate(asked)

    assert found["gazetteer"]["precision"] == 1.0
    assert found["gazetteer"]["recall"] == pytest.approx(3 / 8, abs=1e-4)
    assert found["baseline"]["entity_f1"] > 0.9
    assert found["n"] == 96 and found["entities"] == 192
    assert set(found["per_class"]) == {"company", "day"}
    assert found["accuracy"] is None and found["ece"] is None


def test_an_entity_beyond_the_last_token_is_missed_and_counted(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": "rain " * 300 + "Acme", "entities": {"Acme": "company"}}]
    path = write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "Vela rises", "entities": {"Vela": "company"}}])
    found = evaluate(Asked("entity", path, str(bundle)))

    assert (found["cut_off"], found["entities"], found["truncated"]) == (1, 2, 0.5)


def test_the_sentiment_of_entities_stands_beside_that_of_the_text(bundle: Path, data: Path) -> None:
    found = evaluate(Asked("entity_sentiment", data / "firms.jsonl", str(bundle), train=data))

    # Of two firms in a text one rises and one falls, so that a label for the text is right for one at most.
    assert found["text_level"]["accuracy"] <= 0.5
    assert found["n"] == 2 * len((data / "firms.jsonl").read_text().splitlines())
    assert found["baseline"]["accuracy"] > 0.9


def test_vectors_are_measured_by_ten_texts_a_label_beside_the_base(bundle: Path, data: Path) -> None:
    found = evaluate(Asked("embedding", data / "intents.jsonl", str(bundle), before=True))

    assert found["n"] == len((data / "intents.jsonl").read_text().splitlines()) - 3 * 10
    assert len(found["few_shot"]["by_seed"]) == len(found["before"]["by_seed"]) == 5
    assert found["accuracy"] == pytest.approx(np.mean(found["few_shot"]["by_seed"]), abs=1e-3)
    gap = found["accuracy"] - found["before"]["accuracy"]
    assert found["before"]["difference"]["accuracy"] == pytest.approx(gap, abs=2e-4)
    assert 0.5 < found["cosine_to_base"] <= 1.001


# The command


@pytest.fixture
def run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return workplace(tmp_path, monkeypatch)


def test_the_command_prints_one_object_or_tables(bundle: Path, data: Path, run_in: Path) -> None:
    words = ["model", "evaluate", "--bundle", str(bundle), "--task", "sentiment"]
    words += [
        "--data",
        str(data / "sentiment.jsonl"),
        "--label-map",
        "good=positive",
        "--label-map",
        "bad=negative",
    ]

    found = answer(*words)
    shown = salience(*words).stdout

    assert found["data"] == "sentiment.jsonl" and found["bundle"].startswith("tiny@")
    assert f"{found['macro_f1']:.4f}" in shown
    assert "true / said" in shown and "without leaked rows" in shown


BAD: list[tuple[list[dict[str, Any]], list[str], str]] = [
    ([], ["--task", "mood"], "no head 'mood'; it has sentiment, intent"),
    (
        [{"text": "a", "label": "neutral"}],
        ["--task", "sentiment", "--label-map", "x"],
        "not of the form label=label",
    ),
    (
        [{"text": "a", "label": "neutral"}],
        ["--task", "sentiment", "--label-map", "x=y"],
        "knows negative, neutral",
    ),
    ([{"text": "a", "label": "neutral"}], ["--task", "sentiment", "--where", "fold=1"], "has no column 'fold'"),
    ([{"text": "a"}], ["--task", "sentiment"], "has no column 'label'"),
    ([{"text": 1, "label": "neutral"}], ["--task", "sentiment"], "is no text"),
    ([{"text": "a", "label": "?"}], ["--task", "sentiment", "--label-map", "?=none"], "All rows"),
    ([], ["--task", "sentiment"], "has no row to evaluate"),
    ([{"text": "a", "label": "neutral"}], ["--task", "sentiment", "--before"], "give --train DIR"),
    ([{"text": "a", "label": "neutral"}], ["--task", "sentiment", "--train", "nowhere"], "cannot be read"),
    (
        [{"text": "a", "label": "neutral"}],
        ["--task", "sentiment", "--gazetteer", "x"],
        "--gazetteer is for entities",
    ),
    ([{"text": "a", "entities": 3}], ["--task", "entity"], "give name to label, or a list"),
    ([{"text": "a", "entities": [{"start": "x"}]}], ["--task", "entity"], "has no start, end and label"),
    ([{"text": "a", "entities": {"a": None}}], ["--task", "entity"], "has no label that is text"),
    ([{"text": "a", "entities": {"b": "positive"}}], ["--task", "entity"], "no entity to evaluate"),
    ([{"text": "a", "entities": {"a": "great"}}], ["--task", "entity_sentiment"], "has the label 'great'"),
    ([{"tokens": ["a"], "tags": []}], ["--task", "entity"], "has 1 tokens and 0 tags"),
    ([{"tokens": ["a"], "tags": ["S-ORG"]}], ["--task", "entity"], "has the tag 'S-ORG'"),
    ([{"tokens": "a", "tags": [1]}], ["--task", "entity"], "give a list of texts each"),
    ([{"text": "a", "label": "x"}], ["--task", "embedding"], "needs at least two labels"),
]


@pytest.mark.parametrize(("rows", "options", "told"), BAD, ids=[told for _, _, told in BAD])
def test_bad_input_ends_in_a_sentence(
    rows: list[dict[str, Any]], options: list[str], told: str, bundle: Path, run_in: Path
) -> None:
    path = write_rows(run_in / "rows.jsonl", rows)

    problem: Mapping[str, str] = answer(
        *("model", "evaluate", "--bundle", str(bundle), "--data", str(path), *options), status=2
    )["error"]

    assert told in problem["message"]
    assert problem["reason"] == "usage"


def test_a_missing_file_and_the_stub_are_told(run_in: Path, bundle: Path) -> None:
    words = ["model", "evaluate", "--task", "sentiment", "--data", "nowhere.jsonl"]

    assert "nowhere.jsonl cannot be read" in salience(*words, "--bundle", str(bundle), status=2).stderr
    assert "the stub has no bundle to evaluate" in salience(*words, status=2).stderr
