"""A bundle fitted again without training: what stays, what is found anew, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("peft", reason="needs peft: install salience[train]")

from safetensors.numpy import load_file
from tiny_bundle import INTENT_WAYS, RECIPE, to_toml, write_rows

from models.bundle import ADAPTERS, CARD, HEADS, METRICS, TRAINED, load_bundle
from models.leaks import known_by
from models.refit import refit
from models.runtime import OnnxScorer
from schemas.errors import UsageError

pytestmark = pytest.mark.train

WITHOUT = [{**head, "ngrams": 0} if head["kind"] == "label" else head for head in RECIPE["heads"]]


def recipe_file(folder: Path, tiny: Path, **changes: Any) -> str:
    path = folder / "r.toml"
    path.write_text(to_toml({**RECIPE, "base": str(tiny.parent / "base"), **changes}))
    return str(path)


@pytest.fixture(scope="module")
def again(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle fitted again by its own recipe."""
    out = tmp_path_factory.mktemp("again") / "bundle"
    refit(str(tiny), tiny.parent / "data", out, precision="fp32")
    return out


def test_the_same_recipe_and_data_give_the_same_bundle(tiny: Path, again: Path) -> None:
    before, after = load_bundle(str(tiny)).manifest, load_bundle(str(again)).manifest

    assert after.heads == before.heads
    for name in (HEADS, ADAPTERS, TRAINED):
        assert after.files[name] == before.files[name]
    metrics = [json.loads((folder / METRICS).read_bytes()) for folder in (tiny, again)]
    for part in ("training", "calibration", "ngrams", "heads", "command"):
        assert metrics[1][part] == metrics[0][part]


def test_manifest_and_card_say_what_was_fitted_from_which_bundle(tiny: Path, again: Path) -> None:
    made, source = load_bundle(str(again)).manifest.created_from, load_bundle(str(tiny)).identity

    assert made["bundle"] == source
    assert made["refit"] == "salience model refit --data DIR --out BUNDLE"
    assert f"are from `{made['refit']}`, which took the network of {source}." in (again / CARD).read_text()


def test_texts_that_made_the_network_are_not_forgotten(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in (tiny.parent / "data").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (data / "intents.jsonl").read_text().splitlines()]
    write_rows(data / "intents.jsonl", [{**row, "text": f"{row['text']} please"} for row in rows])
    refit(str(tiny), data, tmp_path / "out", precision="fp32")
    before, after = (known_by(load_bundle(str(folder))) for folder in (tiny, tmp_path / "out"))

    assert np.isin(before, after).all()
    assert len(after) > len(before)


def test_nothing_is_left_beside_the_bundle(again: Path) -> None:
    assert [path.name for path in again.parent.iterdir()] == ["bundle"]


def test_a_recipe_without_ngrams_takes_them_out_and_leaves_the_network(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refit(str(tiny), tiny.parent / "data", out, recipe_file(tmp_path, tiny, heads=WITHOUT), "fp32")
    before, after = (load_file(folder / HEADS) for folder in (tiny, out))

    taken = {name for name in before if ".ngrams." in name}
    assert len(taken) == 8  # places, weight, scale and bias of two heads
    assert set(after) == set(before) - taken
    assert all((after[name] == before[name]).all() for name in after)
    assert [head.ngram_rows for head in load_bundle(str(out)).manifest.heads] == [0] * 5


def test_texts_like_new_rows_are_no_longer_none(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in (tiny.parent / "data").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    rows = [{"text": f"my parcel is late {way}", "label": "card_lost"} for way in INTENT_WAYS]
    with (data / "intents.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    refit(str(tiny), data, tmp_path / "out", precision="fp32")
    texts = [row["text"] for row in rows]
    before, after = (
        [
            score.heads["intent"].decision
            for score in OnnxScorer(load_bundle(str(folder)), threads=1).score(texts, "chat")
        ]
        for folder in (tiny, tmp_path / "out")
    )

    assert after.count("none") < before.count("none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": RECIPE["heads"][:1], "data": RECIPE["data"][:1]}, "has the heads sentiment, and the bundle"),
        (
            {"heads": [{**RECIPE["heads"][0], "attention_width": 8}, *RECIPE["heads"][1:]]},
            "sentiment has other attention_width",
        ),
        ({"max_length": 32}, "another base or max_length"),
        ({"splits": {"train": 20}}, r"splits texts otherwise .* train = 60, validation = 12, calibration = 14"),
    ],
)
def test_a_recipe_of_another_network_is_refused(
    tiny: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = recipe_file(tmp_path, tiny, **change)
    with pytest.raises(UsageError, match=said):
        refit(str(tiny), tiny.parent / "data", tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_written_over(tiny: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "out" / "mine.jsonl", [])
    with pytest.raises(UsageError, match="not empty"):
        refit(str(tiny), tiny.parent / "data", tmp_path / "out")
