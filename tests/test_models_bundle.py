"""Bundles: found, checked, described."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from models.bundle import FILES, GRAPH, HEADS, METRICS, find_bundle, info, load_bundle
from models.runtime import load_scorer
from schemas.errors import BundleError
from schemas.labels import SENTIMENTS, STREAMS, TOPICS


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packaged bundle, in a folder that a test may spoil."""
    return Path(shutil.copytree(find_bundle(""), tmp_path / "bundle"))


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_packaged_bundle_is_whole_small_and_has_its_heads() -> None:
    bundle = load_bundle()
    assert sum(file.stat().st_size for file in bundle.path.iterdir()) <= 32_000_000
    assert {head.name: head.labels for head in bundle.manifest.heads} == {
        "sentiment": SENTIMENTS,
        "topic": TOPICS,
        "embedding": (),
    }
    assert [bundle.heads(stream) for stream in STREAMS] == [("sentiment", "topic"), (), ("sentiment", "topic")]
    assert all(bundle.embeds(stream) for stream in STREAMS)


def test_the_identity_is_the_name_and_the_hash_of_the_manifest(copied: Path) -> None:
    digest = hashlib.sha256((copied / "manifest.json").read_bytes()).hexdigest()
    assert load_bundle(str(copied)).identity == f"market-minilm@{digest[:12]}"


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused_by_name_with_both_hashes(copied: Path, name: str) -> None:
    with (copied / name).open("ab") as file:
        file.write(b" ")
    found = hashlib.sha256((copied / name).read_bytes()).hexdigest()[:12]
    expected = load_bundle().manifest.files[name][:12]
    with pytest.raises(BundleError, match=rf"{name} was altered.*{found}.*{expected}"):
        load_bundle(str(copied))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_scorer(str(copied))


def test_a_file_that_the_manifest_does_not_list_is_refused(copied: Path) -> None:
    listed = load_bundle(str(copied)).manifest.files
    change_manifest(copied, files={name: digest for name, digest in listed.items() if name != HEADS})
    with pytest.raises(BundleError, match=f"{HEADS} is not listed"):
        load_bundle(str(copied))


def test_another_format_version_is_refused_with_both_versions(copied: Path) -> None:
    change_manifest(copied, format=2)
    with pytest.raises(BundleError, match=r"format 2.*reads format 1"):
        load_bundle(str(copied))


def test_another_normalisation_is_refused(copied: Path) -> None:
    change_manifest(copied, normalisation=["lower-case"])
    with pytest.raises(BundleError, match="lower-case"):
        load_bundle(str(copied))


@pytest.mark.parametrize("content", ["", "[1]", '{"format": 1}', '{"format": 1, "name": 3}'])
def test_a_manifest_that_is_none_is_refused(copied: Path, content: str) -> None:
    (copied / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match="export the bundle anew"):
        load_bundle(str(copied))


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle"):
        load_scorer(str(tmp_path))


def test_info_tells_identity_size_heads_and_figures_and_is_json() -> None:
    facts = info()
    assert facts["identity"] == load_bundle().identity
    assert facts["precision"] == "int8"
    assert facts["bytes"] == sum((find_bundle("") / name).stat().st_size for name in (*FILES, "manifest.json"))
    assert set(facts["metrics"]["heads"]) == {"sentiment", "topic"}
    assert GRAPH in facts["files"] and METRICS in facts["files"]
    json.dumps(facts)


def test_metrics_tell_rows_figures_baseline_and_agreement() -> None:
    metrics = json.loads((find_bundle("") / METRICS).read_text())
    for head in metrics["heads"].values():
        assert set(head["rows"]) == {"train", "validation", "calibration", "test"}
        for kind in ("fp32", "int8", "baseline"):
            assert {"macro_f1", "accuracy", "weighted_f1"} <= set(head["test"][kind])
    assert set(metrics["int8_against_fp32"]["labels"]) == set(metrics["heads"])
