"""The project keeps the shape it promises: packages, arrows of imports, sizes."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import models
import pipeline
import schemas

ROOT = Path(__file__).parents[1]
PACKAGES = (pipeline, models, schemas)
SOURCES = sorted(
    path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py") if path.name != "__init__.py"
)
# What serving must never import; the last belongs to the worker alone.
TRAINING = ("torch", "transformers", "onnx", "peft", "sklearn", "safetensors")
NOT_FOR_SERVING = (*TRAINING, "faust")
LOADED = "print(json.dumps([name for name in {names!r} if name in sys.modules]))"
NEEDS_ONNXRUNTIME = pytest.mark.skipif(
    not any(Path(p).joinpath("onnxruntime").is_dir() for p in sys.path), reason="no onnxruntime is installed"
)
# Scores with the packaged bundle, all a worker needs of the models.
SCORES = """
from pipeline.compose import open_scorer
from pipeline.settings import load_settings
open_scorer(load_settings()).score(["shares fall"], "news")
"""


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=ROOT)


def loaded_after(code: str) -> list[str]:
    done = run("-c", f"import json, sys\n{code}\n{LOADED.format(names=NOT_FOR_SERVING)}")
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def contract_named(name: str) -> dict[str, Any]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {each["name"]: each for each in config["tool"]["importlinter"]["contracts"]}
    found: dict[str, Any] = contracts[name]
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_top_level_package_belongs_to_this_distribution(package: object) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    owners = set(importlib.metadata.packages_distributions().get(name, []))

    # An editable installation lists no files of its packages; then the folder itself tells.
    assert owners <= {"salience"}
    assert owners or Path(package.__file__).parents[1] == ROOT  # type: ignore[attr-defined]
    assert importlib.metadata.metadata("salience")["Name"] == "salience"


def test_the_wheel_has_all_packages_and_nothing_else() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == {
        package.__name__ for package in PACKAGES
    }


def test_the_console_script_is_there() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="salience")

    assert script.load() is __import__("pipeline.cli", fromlist=["main"]).main


def test_fausts_transport_is_registered() -> None:
    [transport] = importlib.metadata.entry_points(group="faust.transports", name="salience")

    assert transport.value == "pipeline.transport:Transport"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 400
    if "versions" not in path.parts:
        assert text.startswith('"""')


def test_every_test_file_has_a_docstring_and_no_package() -> None:
    for path in ROOT.glob("tests/*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path.name
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_the_arrows_of_imports_hold() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])")

    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_reactions_are_held_apart_by_a_contract() -> None:
    contract = contract_named("reactions do not know each other")

    assert contract["modules"] == ["pipeline.react.*"]
    assert contract["type"] == "independence"


def test_training_packages_are_held_from_serving_by_a_contract_on_chains_of_imports() -> None:
    contract = contract_named("serving never imports torch")

    assert contract["type"] == "forbidden"
    assert set(contract["forbidden_modules"]) == set(TRAINING)
    assert contract["ignore_imports"] == [
        "pipeline.commands.benchmark -> models.benchmark",
        "pipeline.commands.evaluate -> models.evaluate",
        "pipeline.commands.explain -> models.gradient",
        "pipeline.commands.model -> models.export",
        "pipeline.commands.train -> models.train",
        "pipeline.commands.train -> models.refit",
    ]
    assert not contract.get("allow_indirect_imports")


@NEEDS_ONNXRUNTIME
def test_the_contract_on_serving_names_every_module_that_scoring_loads() -> None:
    done = run("-c", f"{SCORES}\nimport sys\nprint(*(name for name in sys.modules if name.startswith('models.')))")

    loaded = set(done.stdout.split())
    assert "models.runtime" in loaded
    assert loaded <= set(contract_named("serving never imports torch")["source_modules"])


def test_serving_imports_neither_training_nor_faust() -> None:
    code = """
import pipeline.compose, pipeline.cli, pipeline.backfill, pipeline.doctor
from pipeline.settings import load_settings
pipeline.compose.open_scorer(load_settings(model={"bundle": "stub"})).score(["shares fall"], "news")
"""

    assert loaded_after(code) == []


@NEEDS_ONNXRUNTIME
def test_the_packaged_bundle_scores_without_training_packages() -> None:
    assert loaded_after(SCORES) == []


def test_the_worker_needs_faust_but_no_training_packages() -> None:
    assert loaded_after("import pipeline.worker") == ["faust"]
