"""Evaluation: rows as questions, and whole evaluations of a small bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import answer, salience, workplace

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

from sklearn.metrics import f1_score
from tiny_bundle import write_rows

from models.bundle import Head
from models.data import Span
from models.evaluate import KEYS, Asked, evaluate
from models.exam import read_exam
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
