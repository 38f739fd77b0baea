"""Bundles: found, checked, described."""

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest
from tiny_bundle import RECIPE

from models.bundle import (
    ADAPTERS,
    FILES,
    GRAPH,
    HEADS,
    METRICS,
    NOTICE,
    SPAN_GRAPH,
    Manifest,
    find_bundle,
    info,
    load_bundle,
    write_manifest,
)
from models.recipe import load_recipe
from models.runtime import load_scorer
from schemas.errors import BundleError
from schemas.labels import STREAMS

REQUIRED = (*FILES, SPAN_GRAPH, ADAPTERS, "intent.bank.npy")


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """The tiny bundle, in a folder that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "bundle"))


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# The packaged one


def test_the_packaged_bundle_is_whole_small_and_has_the_heads_of_its_recipe() -> None:
    bundle, recipe = load_bundle(), load_recipe("market-minilm")

    assert sum(file.stat().st_size for file in bundle.path.iterdir()) <= 32_000_000
    assert [(head.name, head.kind, head.labels, head.streams) for head in bundle.manifest.heads] == [
        (head.name, head.kind, head.labels, head.streams) for head in recipe.heads
    ]
    assert all(bundle.embeds(stream) for stream in STREAMS)


def test_the_packaged_bundle_names_whom_to_thank() -> None:
    notice = (find_bundle("") / NOTICE).read_text()

    assert all((data.name in notice and data.licence in notice) for data in load_recipe("market-minilm").data)


def test_metrics_tell_rows_figures_baseline_and_agreement() -> None:
    metrics = json.loads((find_bundle("") / METRICS).read_text())

    for head in load_bundle().manifest.heads:
        found = metrics["heads"][head.name]
        assert {"fp32", "int8"} <= set(found)
        if head.kind == "label":
            assert {"macro_f1", "accuracy", "weighted_f1", "ece", "interval"} <= set(found["int8"])
            assert {"macro_f1", "accuracy"} <= set(found["baseline"])
    assert set(metrics["rows"]) == {"train", "validation", "calibration", "test"}
    assert metrics["parity"]["cosine"] >= 0.98


# Any


def test_the_identity_is_the_name_and_the_hash_of_the_manifest(tiny: Path) -> None:
    digest = hashlib.sha256((tiny / "manifest.json").read_bytes()).hexdigest()

    assert load_bundle(str(tiny)).identity == f"tiny@{digest[:12]}"


def test_heads_answer_for_the_streams_of_their_recipe(tiny: Path) -> None:
    bundle = load_bundle(str(tiny))

    assert [tuple(bundle.labels(stream)) for stream in STREAMS] == [
        ("sentiment", "entity"),
        ("intent",),
        ("sentiment",),
    ]
    assert bundle.answering("news") == ("sentiment", "entity", "entity_sentiment", "embedding")
    assert bundle.labels("news")["entity"] == ("company", "day")
    assert bundle.head("entity").tags == ("O", "B-company", "I-company", "B-day", "I-day")


@pytest.mark.parametrize("name", REQUIRED)
def test_an_altered_file_is_refused_by_name_with_both_hashes(copied: Path, name: str) -> None:
    expected = load_bundle(str(copied)).manifest.files[name][:12]
    with (copied / name).open("ab") as file:
        file.write(b" ")
    found = hashlib.sha256((copied / name).read_bytes()).hexdigest()[:12]
    with pytest.raises(BundleError, match=rf"{name} was altered.*{found}.*{expected}"):
        load_bundle(str(copied))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_refused_by_name(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_scorer(str(copied))


@pytest.mark.parametrize("name", [HEADS, SPAN_GRAPH, ADAPTERS, "intent.bank.npy"])
def test_a_file_that_the_manifest_does_not_list_is_refused(copied: Path, name: str) -> None:
    listed = load_bundle(str(copied)).manifest.files
    change_manifest(copied, files={each: digest for each, digest in listed.items() if each != name})
    with pytest.raises(BundleError, match=f"{name} is not listed"):
        load_bundle(str(copied))


@pytest.mark.parametrize("version", [1, 3, None])
def test_another_format_is_refused_with_both_versions(copied: Path, version: int | None) -> None:
    change_manifest(copied, format=version)
    with pytest.raises(BundleError, match=rf"format {version}, .*reads format 2; export the bundle anew"):
        load_bundle(str(copied))


def test_another_normalisation_is_refused(copied: Path) -> None:
    change_manifest(copied, normalisation=["lower-case"])
    with pytest.raises(BundleError, match="lower-case"):
        load_bundle(str(copied))


@pytest.mark.parametrize("content", ["", "[1]", '{"format": 2}', '{"format": 2, "name": 3}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match="export the bundle anew"):
        load_bundle(str(tmp_path))


def test_a_bank_that_is_no_array_is_refused(copied: Path) -> None:
    (copied / "intent.bank.npy").write_bytes(b"no vectors")
    write_manifest(copied, load_manifest(copied))
    with pytest.raises(BundleError, match="is no bank of vectors"):
        load_scorer(str(copied))


def load_manifest(folder: Path) -> Manifest:
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle"):
        load_scorer(str(tmp_path))


def test_info_tells_identity_size_heads_and_figures_and_is_json(tiny: Path) -> None:
    facts = info(str(tiny))

    assert facts["identity"] == load_bundle(str(tiny)).identity
    assert (facts["precision"], facts["tuned"]["tuning"]) == ("fp32", "lora")
    assert facts["bytes"] == sum(path.stat().st_size for path in tiny.iterdir())
    assert set(facts["metrics"]["heads"]) == {head["name"] for head in RECIPE["heads"]}
    assert GRAPH in facts["files"] and METRICS in facts["files"]
    json.dumps(facts)


def test_vectors_of_two_bundles_compare_where_their_encoders_are_the_same(copied: Path) -> None:
    before = load_bundle(str(copied))
    (copied / HEADS).write_bytes(b"other heads")
    write_manifest(copied, load_manifest(copied))
    heads = load_bundle(str(copied))
    (copied / ADAPTERS).write_bytes(b"other adapters")
    write_manifest(copied, load_manifest(copied))

    assert heads.identity != before.identity
    assert heads.embedding == before.embedding
    assert load_bundle(str(copied)).embedding != before.embedding
