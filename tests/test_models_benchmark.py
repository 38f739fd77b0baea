"""Benchmarks: recipes as rows of a table, folds, seeds with labels held out, and sequences that are not text."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

import torch
from tiny_bundle import RECIPE, tiny_data, to_toml
from typer.testing import CliRunner

from models import digits
from models.benchmark import benchmarks, run, stored, unseen
from models.recipe import load_recipe
from pipeline.commands.app import app
from schemas.errors import UsageError

pytestmark = pytest.mark.train


def recipe_file(
    folder: Path, base: Path, heads: tuple[str, ...], benchmark: dict[str, Any], **changes: Any
) -> str:
    kept = {
        "heads": [head for head in RECIPE["heads"] if head["name"] in heads],
        "data": [data for data in RECIPE["data"] if set(data["heads"]) <= set(heads)],
        "training": {**RECIPE["training"], "epochs": 2},
    }
    path = folder / "bench.toml"
    path.write_text(to_toml({**RECIPE, **kept, "base": str(base), "benchmark": benchmark, **changes}))
    return str(path)


def test_every_benchmark_that_comes_along_can_be_read() -> None:
    names = benchmarks()

    assert {"digits", "fin-phrasebank", "conll2003", "banking77", "banking77-near", "topic"} <= set(names)
    assert {"clinc150", "hwu64", "ag-news", "tweet-eval", "sst2"} <= set(names)
    assert all(load_recipe(name).benchmark for name in names if name != "digits")


def test_each_fold_is_reported_once_and_the_mean_is_theirs(random_base: Path, tmp_path: Path) -> None:
    asked = {"title": "tiny", "head": "sentiment", "metrics": ["accuracy"], "folds": 2}
    splits = {"validation": 10, "calibration": 10, "folds": 2}
    name = recipe_file(tmp_path, random_base, ("sentiment",), asked, splits=splits)

    row = run(name, tiny_data(tmp_path / "data"), tmp_path / "work")

    figure = row["figures"]["accuracy"]
    assert row["n"] == 80
    assert figure["mean"] == pytest.approx(sum(figure["runs"]) / 2, abs=1e-4)
    assert len(figure["runs"]) == 2


def test_labels_that_were_held_out_are_told_by_familiarity(random_base: Path, tmp_path: Path) -> None:
    asked = {"title": "near", "head": "intent", "metrics": ["auroc_none"], "seeds": 1, "unseen": 1}
    encoder = {"tuning": "frozen"}
    name = recipe_file(tmp_path, random_base, ("intent", "embedding"), asked, encoder=encoder)

    row = run(name, tiny_data(tmp_path / "data"), tmp_path / "work")

    assert 0.0 <= row["figures"]["auroc_none"]["mean"] <= 1.0
    recipe = load_recipe(name)
    assert recipe.benchmark is not None
    assert len(unseen(recipe, recipe.benchmark, 0)) == 1


def test_a_result_that_lies_there_is_not_made_again(random_base: Path, tmp_path: Path) -> None:
    asked = {"title": "tiny", "head": "sentiment", "metrics": ["accuracy"]}
    name = recipe_file(tmp_path, random_base, ("sentiment",), asked)
    row = run(name, tiny_data(tmp_path / "data"), tmp_path / "work")
    for file in (tmp_path / "data").iterdir():
        file.unlink()

    assert run(name, tmp_path / "data", tmp_path / "work") == row


def test_what_was_not_measured_has_no_figures(tmp_path: Path) -> None:
    assert stored("conll2003", tmp_path)["figures"] == {}


def test_a_recipe_without_a_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no section \[benchmark\]"):
        run("market-minilm", tmp_path, tmp_path / "work")


def test_digits_are_told_from_patches_by_the_same_pooling() -> None:
    figures = digits.run()

    assert figures["n"] == 450
    assert figures["accuracy"] > 0.9


def test_a_patch_knows_its_pixels_and_its_place() -> None:
    images = [[[16.0 if (row, column) == (7, 7) else 0.0 for column in range(8)] for row in range(8)]]

    patches = digits.patches(images)

    assert tuple(patches.shape) == (1, 9, 25)
    assert patches[0, 8, :16].sum() == 1.0
    assert patches[0, :8, :16].sum() == 0.0
    assert torch.equal(patches[0, :, 16:], torch.eye(9))


def test_a_result_of_another_recipe_of_that_name_is_not_taken_for_this_ones(
    random_base: Path, tmp_path: Path
) -> None:
    asked = {"title": "tiny", "head": "sentiment", "metrics": ["accuracy"]}
    run(recipe_file(tmp_path, random_base, ("sentiment",), asked), tiny_data(tmp_path / "data"), tmp_path / "work")
    other = recipe_file(tmp_path, random_base, ("sentiment",), asked, encoder={"tuning": "frozen"})

    assert stored(other, tmp_path / "work")["figures"] == {}
    with pytest.raises(UsageError, match=r"of another recipe that is called .*, or remove .* to measure anew"):
        run(other, tmp_path / "data", tmp_path / "work")


def test_a_recipe_of_ones_own_has_its_row_in_the_table(random_base: Path, tmp_path: Path) -> None:
    asked = {"title": "my own", "head": "sentiment", "metrics": ["accuracy"]}
    file = recipe_file(tmp_path, random_base, ("sentiment",), asked)
    data = tiny_data(tmp_path / "data")

    told = CliRunner().invoke(
        app, ["model", "benchmark", file, "--data", str(data), "--work", str(tmp_path / "work"), "--json"]
    )

    assert told.exit_code == 0, told.output
    *_, row = json.loads(told.stdout)["benchmarks"]
    assert (row["title"], row["n"] > 0) == ("my own", True)
    assert 0.0 <= row["figures"]["accuracy"]["mean"] <= 1.0
