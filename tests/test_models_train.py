"""From a recipe and a folder of data to a bundle: what is written, and what is refused before hours are spent."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("peft", reason="needs peft: install salience[train]")

from tiny_bundle import RECIPE, tiny_data, to_toml, write_rows

from models import train as training
from models.bundle import ADAPTERS, GRAPH, HEADS, MANIFEST, METRICS, SPAN_GRAPH, load_bundle
from models.export import load_network
from models.fit import CHECKPOINT, LOG
from models.leaks import known_by
from models.recipe import load_recipe
from models.train import train
from models.tune import learning
from schemas.errors import BundleError, TrainingError, UsageError

pytestmark = pytest.mark.train

# One head; exporting all of them is most of the time that a tiny bundle takes.
ALONE = {"heads": RECIPE["heads"][:1], "data": RECIPE["data"][:1]}


def recipe_file(folder: Path, base: Path, **changes: Any) -> str:
    path = folder / "r.toml"
    path.write_text(to_toml({**RECIPE, "base": str(base), **changes}))
    return str(path)


# What a run writes


def test_heads_are_fitted_again_over_the_encoder_as_it_is_then(random_base: Path, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, random_base, training={**RECIPE["training"], "epochs": 1, "refit_epochs": 1})
    lines: list[str] = []

    def report(line: str, *_: Any) -> None:
        lines.append(line)

    trained = training.learn(load_recipe(path), tiny_data(tmp_path / "data"), tmp_path / "work", report)

    assert len(trained.log["refit"]["validation"]) == 1
    assert any("lora_" in name for name in learning(trained.network))
    assert sum(line.startswith("validation") for line in lines) == 2


def test_a_run_writes_a_whole_bundle_and_leaves_checkpoint_and_log_beside_it(tiny: Path) -> None:
    bundle = load_bundle(str(tiny))

    assert {path.name for path in tiny.iterdir()} == {
        *(GRAPH, SPAN_GRAPH, HEADS, ADAPTERS, METRICS, "tokenizer.json", "recipe.json", "manifest.json"),
        *("README.md", "intent.bank.npy", "trained.npy"),
    }
    assert bundle.manifest.tuned.layers == (1,)
    assert {CHECKPOINT, LOG} <= {path.name for path in tiny.with_name("bundle.training").iterdir()}


def test_no_text_of_the_data_is_in_the_bundle(tiny: Path) -> None:
    rows = (tiny.parent / "data" / "sentiment.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in rows]
    for name in ("README.md", "metrics.json", "manifest.json", "recipe.json"):
        content = (tiny / name).read_text()
        assert not any(text in content for text in texts)


def test_metrics_give_every_head_on_rows_that_chose_nothing(tiny: Path) -> None:
    metrics = json.loads((tiny / METRICS).read_text())

    assert set(metrics["heads"]) == {head["name"] for head in RECIPE["heads"]}
    assert set(metrics["rows"]["test"]) == {data["path"] for data in RECIPE["data"]}
    assert all(metrics["rows"]["test"].values())
    sentiment = metrics["heads"]["sentiment"]
    assert sentiment["fp32"]["n"] == metrics["rows"]["test"]["sentiment.jsonl"]
    assert {"accuracy", "macro_f1", "weighted_f1", "ece", "coverage_at_95", "interval"} <= set(sentiment["fp32"])
    assert sentiment["baseline"]["model"].startswith("TF-IDF")
    assert "entity_f1" in metrics["heads"]["entity"]["fp32"]
    assert metrics["heads"]["embedding"]["fp32"]["cosine_to_base"] > 0.9


def test_heads_learn_what_the_rows_tell(tiny: Path) -> None:
    heads = json.loads((tiny / METRICS).read_text())["heads"]

    assert heads["intent"]["fp32"]["accuracy"] > 0.9
    assert heads["entity"]["fp32"]["entity_f1"] > 0.8
    assert heads["entity_sentiment"]["fp32"]["accuracy"] > 0.8


def test_thresholds_are_in_the_manifest_with_what_they_were_found_on(tiny: Path) -> None:
    manifest = load_bundle(str(tiny)).manifest
    notes = json.loads((tiny / METRICS).read_text())["calibration"]
    intent = next(head for head in manifest.heads if head.name == "intent")

    assert intent.none_below == notes["intent"]["none"]["below"]
    assert notes["sentiment"]["unsure"]["target"] == 0.8
    assert sum(map(sum, intent.confusion)) == notes["intent"]["n"]


def test_the_card_names_data_figures_and_limits(tiny: Path) -> None:
    card = (tiny / "README.md").read_text()

    assert "intents.jsonl" in card
    assert "| sentiment | fp32 |" in card
    assert RECIPE["limits"][0] in card
    assert "salience model train" in card
    assert "tokens and pairs), `intent` (" in card


def test_training_begins_with_the_weights_of_a_bundle_and_keeps_all_of_them(tiny: Path, tmp_path: Path) -> None:
    """The bottom layer stays as the bundle it started with has it, so the new one must hold that layer, too."""
    taught = tmp_path / "taught"
    full = {"tuning": "full", "start": str(tiny)}
    once = {**RECIPE["training"], "epochs": 1, "learning_rate": 1e-2}
    for out, encoder in ((taught, full), (tmp_path / "out", {**full, "start": str(taught), "frozen_layers": 1})):
        path = recipe_file(tmp_path, tiny.parent / "base", encoder=encoder, training=once, **ALONE)
        metrics = train(path, tiny.parent / "data", out, "fp32")
    base, before, after = (
        each.encoder.state_dict()["encoder.layer.0.output.dense.weight"]
        for each in (
            load_network(load_bundle(str(tiny))),
            load_network(load_bundle(str(taught))),
            load_network(load_bundle(str(tmp_path / "out"))),
        )
    )

    assert (after - before).abs().max() == 0
    assert (before - base).abs().max() > 1e-3
    assert metrics["source"] == {"bundle": load_bundle(str(taught)).identity, "knew": 0}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"began with the encoder of {load_bundle(str(taught)).identity}." in card


def test_texts_that_the_first_bundle_knew_are_counted(tiny: Path, tmp_path: Path) -> None:
    """By other splits its training texts come into the test split."""
    splits = {"train": 10, "validation": 10, "calibration": 10}
    encoder = {"tuning": "full", "start": str(tiny)}
    once = {**RECIPE["training"], "epochs": 1}
    path = recipe_file(tmp_path, tiny.parent / "base", splits=splits, encoder=encoder, training=once, **ALONE)
    metrics = train(path, tiny.parent / "data", tmp_path / "out", "fp32")

    assert metrics["source"]["knew"] > 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{metrics['source']['knew']} texts of the test split had made that bundle" in card


def test_what_made_the_first_bundle_has_made_the_second(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": f"firm {number} {verb}", "label": "positive"} for number in range(40) for verb in ("a", "b")]
    rows += [{"text": f"firm {number} falls", "label": "negative"} for number in range(40)]
    write_rows(data / "news.jsonl", rows)
    encoder = {"tuning": "full", "start": str(tiny)}
    head = {**RECIPE["heads"][0], "ngrams": 0}
    source = {"path": "news.jsonl", "heads": ["sentiment"]}
    once = {**RECIPE["training"], "epochs": 1}
    changes = {"encoder": encoder, "heads": [head], "data": [source], "training": once}
    train(recipe_file(tmp_path, tiny.parent / "base", **changes), data, tmp_path / "out", "fp32")
    before, after = (known_by(load_bundle(str(folder))) for folder in (tiny, tmp_path / "out"))

    assert len(before) and np.isin(before, after).all()
    assert len(after) > len(before)


def test_a_first_bundle_that_changed_under_its_name_is_another_recipe(tiny: Path, tmp_path: Path) -> None:
    """With a frozen layer the checkpoint holds only the others: they would stand over layers of another bundle."""
    first = tmp_path / "first"
    shutil.copytree(tiny, first)
    encoder = {"tuning": "full", "start": str(first), "frozen_layers": 1}
    once = {**RECIPE["training"], "epochs": 1}
    asked = load_recipe(recipe_file(tmp_path, tiny.parent / "base", encoder=encoder, training=once))
    training.learn(asked, tiny.parent / "data", tmp_path / "work")
    manifest = first / MANIFEST
    manifest.write_text(manifest.read_text().replace('"tiny"', '"tiny-again"', 1))

    with pytest.raises(TrainingError, match="checkpoint of another recipe"):
        training.learn(asked, tiny.parent / "data", tmp_path / "work")


def test_without_calibration_texts_validation_weighs_the_ngrams(tiny: Path, tmp_path: Path) -> None:
    splits = {"train": 80, "validation": 12, "calibration": 0}
    once = {**RECIPE["training"], "epochs": 1}
    path = recipe_file(tmp_path, tiny.parent / "base", splits=splits, training=once, **ALONE)
    metrics = train(path, tiny.parent / "data", tmp_path / "out", "fp32")

    assert {note["judged_by"] for note in metrics["ngrams"].values()} == {"validation"}
    assert "weighed on the validation split" in (tmp_path / "out" / "README.md").read_text()


def test_a_bundle_over_another_base_is_no_start(random_base: Path, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, random_base, encoder={"tuning": "full", "start": "packaged"})
    with pytest.raises(BundleError, match="start with a bundle over the same base"):
        training.learn(load_recipe(path), tiny_data(tmp_path / "data"), tmp_path / "work")


# What is refused


def refuse_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("this is where hours would be spent")

    for name in ("base_vectors", "fit"):
        monkeypatch.setattr(training, name, never)


@pytest.mark.parametrize(
    ("file", "rows", "told"),
    [
        ("tags.jsonl", None, r"tags\.jsonl cannot be read"),
        ("tags.jsonl", '{"tokens": ["a"], "tags": ["B-firm"]}\n', r"tags\.jsonl, line 1, has the label 'firm'"),
        (
            "sentiment.jsonl",
            '{"text": "a", "label": "grim"}\n',
            r"line 1, has the label 'grim'.*negative, neutral",
        ),
        ("sentiment.jsonl", '{"text": "a"}\n', "has no column 'label'; it has text"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_computed(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, rows: str | None, told: str
) -> None:
    refuse_to_go_on(monkeypatch)
    data = tiny_data(tmp_path / "data")
    if rows is None:
        (data / file).unlink()
    else:
        (data / file).write_text(rows)
    with pytest.raises(UsageError, match=told):
        train(recipe_file(tmp_path, random_base), data, tmp_path / "out", "fp32")
    assert not (tmp_path / "out.training").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heads": []}, "at least one head"),
        ({"training": {"epoch": 1}}, "unknown field `epoch`"),
        ({"encoder": {"frozen_layers": 2}}, "frozen_layers is 2 and the base has 2 layers"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(UsageError, match=told):
        train(
            recipe_file(tmp_path, random_base, **changes), tiny_data(tmp_path / "data"), tmp_path / "out", "fp32"
        )


def test_a_base_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no config\.json"):
        train(recipe_file(tmp_path, tmp_path), tiny_data(tmp_path / "data"), tmp_path / "out", "fp32")


def test_a_run_never_writes_over_files(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_go_on(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train(recipe_file(tmp_path, random_base), tmp_path, tmp_path / "out", "fp32")


def test_threads_are_those_that_were_asked_for_and_0_leaves_them() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        training.use_threads(1)
        assert torch.get_num_threads() == 1
        training.use_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
