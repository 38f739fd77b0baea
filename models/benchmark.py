"""Recipes as rows of a table: each trained for every fold or seed, tested, and set beside published figures."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import corpus as corpora
from models.blend import add_ngrams
from models.calibrate import bank, fit_temperature
from models.corpus import Corpus
from models.data import SPLITS, Example, identity, read_examples
from models.digits import run as digits
from models.figures import auroc_none, entity_figures, label_figures, scored
from models.finish import Trained, source_of
from models.fit import Report
from models.interpret import familiarity, softmax
from models.predict import Answers, answers
from models.recipe import PACKAGED_RECIPES, Benchmark, Recipe, load_recipe
from models.runner import NetworkRunner
from models.train import learn
from schemas.errors import UsageError

RESULT = "result.json"
DIGITS = "digits"
_DIGITS = Benchmark(
    title="scikit-learn's digits, from patches",
    head="digit",
    metrics=("accuracy", "macro_f1"),
    note="sequences that are not text: the same pooling over patches of an image",
)


def benchmarks() -> list[str]:
    """Names of the benchmarks that come with Salience; all but the digits are recipes."""
    return sorted([DIGITS, *(path.stem for path in (PACKAGED_RECIPES / "benchmarks").glob("*.toml"))])


def run(name: str, data: Path, work: Path, report: Report = lambda *_: None) -> dict[str, Any]:
    """Train and test one benchmark; a run whose result lies in `work` is not done again.

    Args:
        name: a recipe with a section `benchmark`: a TOML file, or the name of one that comes along; or `digits`.
        data: the folder in which its files lie.
        work: takes checkpoints and results.

    Raises:
        UsageError: the recipe is no benchmark, its data are not usable, or `work` has another recipe's results
            under its name.
    """
    if name == DIGITS:
        path = _result(work, DIGITS, 0)
        if not path.is_file():
            _keep(path, digits())
        return stored(name, work)
    recipe, asked = _asked(name)
    for number, variant in enumerate(_variants(recipe, asked)):
        path = _result(work, recipe.name, number)
        if not path.is_file():
            found = _one(variant, recipe, data, path.parent, report)
            _keep(path, {**found, "recipe": _digest(recipe)})
        elif not _kept(path, recipe):
            raise UsageError(
                f"{path} is the result of another recipe that is called {recipe.name}; give another folder for "
                f"results, or remove {path.parent.parent} to measure anew."
            )
    return stored(name, work)


def stored(name: str, work: Path) -> dict[str, Any]:
    """The row of a benchmark from its results in `work`; without figures where one is missing or another recipe's.

    Raises:
        UsageError: the recipe is no benchmark.
    """
    recipe, asked = (None, _DIGITS) if name == DIGITS else _asked(name)
    paths = [
        _result(work, recipe.name if recipe else name, number)
        for number in range(max(1, asked.folds, asked.seeds))
    ]
    found = [_kept(path, recipe) for path in paths]
    runs = [each for each in found if each] if all(found) else []
    return {
        "name": recipe.name if recipe else name,
        "title": asked.title,
        "tuning": recipe.encoder.tuning if recipe else "",
        "metrics": list(asked.metrics),
        "n": sum(each["n"] for each in runs),
        "figures": {metric: _figure(metric, runs) for metric in asked.metrics if runs},
        "published": [msgspec.to_builtins(each) for each in asked.published],
        "note": asked.note,
        "known_before": sum(each.get("source", {}).get("knew", 0) for each in runs),
        "seconds": round(sum(each.get("training", {}).get("seconds", 0.0) for each in runs), 1),
        "per_class": runs[0].get("per_class", {}) if len(runs) == 1 else {},
    }


def _asked(name: str) -> tuple[Recipe, Benchmark]:
    recipe = load_recipe(name)
    if recipe.benchmark is None:
        raise UsageError(f"The recipe {name} has no section [benchmark]; there are {', '.join(benchmarks())}.")
    return recipe, recipe.benchmark


def _result(work: Path, name: str, number: int) -> Path:
    return work / name / str(number) / RESULT


def _kept(path: Path, recipe: Recipe | None) -> dict[str, Any] | None:
    """The result that lies there, if it is this recipe's; the digits have none."""
    if not path.is_file():
        return None
    result: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return result if recipe is None or result.get("recipe") == _digest(recipe) else None


def _digest(recipe: Recipe) -> str:
    """Of what a recipe says, whatever its layout."""
    return hashlib.sha256(msgspec.json.encode(recipe, order="sorted")).hexdigest()[:16]


def _keep(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def _figure(metric: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and, of several runs, spread; of one its interval, where it has one."""
    values = [each[metric] for each in runs]
    found: dict[str, Any] = {"mean": round(float(np.mean(values)), 4), "runs": values}
    if len(values) > 1:
        found["deviation"] = round(float(np.std(values, ddof=1)), 4)
    elif metric in runs[0].get("interval", {}):
        found["interval"] = runs[0]["interval"][metric]
    return found


def _variants(recipe: Recipe, asked: Benchmark) -> Iterator[Recipe]:
    for fold in range(asked.folds):
        yield msgspec.structs.replace(recipe, splits=msgspec.structs.replace(recipe.splits, fold=fold))
    for seed in range(asked.seeds):
        seeded = msgspec.structs.replace(recipe, training=msgspec.structs.replace(recipe.training, seed=seed))
        yield _without(seeded, asked.head, unseen(recipe, asked, seed))
    if not asked.folds and not asked.seeds:
        yield recipe


def unseen(recipe: Recipe, asked: Benchmark, seed: int) -> list[str]:
    """The labels that this seed holds out."""
    labels = sorted(recipe.head(asked.head).labels)
    return sorted(np.random.default_rng(seed).choice(labels, asked.unseen, replace=False).tolist())


def _without(recipe: Recipe, name: str, out: Sequence[str]) -> Recipe:
    """The recipe with these labels unknown and their rows left out."""
    heads = tuple(
        msgspec.structs.replace(head, labels=tuple(label for label in head.labels if label not in out))
        if head.name == name
        else head
        for head in recipe.heads
    )
    data = tuple(
        msgspec.structs.replace(each, rename={**each.rename, **dict.fromkeys(out, "")})
        if name in each.heads
        else each
        for each in recipe.data
    )
    return msgspec.structs.replace(recipe, heads=heads, data=data)


def _one(variant: Recipe, whole: Recipe, data: Path, folder: Path, report: Report) -> dict[str, Any]:
    asked = whole.benchmark
    assert asked is not None
    trained = learn(variant, data, folder, report)
    ngrams = add_ngrams(trained.network, variant, trained.splits, trained.tokenizer)
    runner = NetworkRunner(trained.network)
    test = _test_corpus(variant, asked, trained, data)
    said = answers(runner, test, variant, trained.tokenizer)
    head = variant.head(asked.head)
    if head.kind == "entity":
        found = entity_figures(said.tags[head.name], head.labels)
    else:
        temperature = _temperature(runner, variant, trained, head.name)
        chances = scored(said.logits[head.name], said.labels[head.name], temperature)
        found = label_figures(chances, head.labels)
        if asked.unseen:
            strangers = corpora.read([_strangers(variant, whole, data)], variant, trained.tokenizer)
            theirs = answers(runner, strangers, variant, trained.tokenizer)
            train = answers(runner, trained.splits["train"], variant, trained.tokenizer)
            assert train.vectors is not None
            known = bank(train.vectors[train.texts[head.name]], train.labels[head.name].tolist())
            familiar = [_familiar(each, head.name, temperature, known) for each in (said, theirs)]
            none = np.repeat([0, -1], [len(each) for each in familiar])
            found["auroc_none"] = auroc_none(np.concatenate(familiar), none)
            found["strangers"] = len(strangers.texts)
    return {**found, "training": trained.log, "source": source_of(trained, test.texts), "ngrams": ngrams}


def _test_corpus(recipe: Recipe, asked: Benchmark, trained: Trained, data: Path) -> Corpus:
    """The rows that are reported; of a file of its own, those whose text trained nothing."""
    if not asked.test:
        return trained.splits["test"]
    source = msgspec.structs.replace(recipe.data[0], path=asked.test)
    known = {identity(text) for split in SPLITS if split != "test" for text in trained.splits[split].texts}
    examples = list(read_examples(data / asked.test, source, recipe))
    return corpora.read(
        [[each for each in examples if identity(each.text) not in known or each.words]], recipe, trained.tokenizer
    )


def _temperature(runner: NetworkRunner, recipe: Recipe, trained: Trained, name: str) -> float:
    said = answers(runner, trained.splits["calibration"], recipe, trained.tokenizer)
    return fit_temperature(said.logits[name], said.labels[name]) if name in said.logits else 1.0


def _strangers(variant: Recipe, whole: Recipe, data: Path) -> list[Example]:
    """Every text of a held-out label, under a label that means nothing."""
    asked = whole.benchmark
    assert asked is not None
    seen = variant.head(asked.head).labels
    out = [label for label in whole.head(asked.head).labels if label not in seen]
    found: list[Example] = []
    for source in whole.data:
        if asked.head in source.heads:
            mapped = {**dict.fromkeys(seen, ""), **dict.fromkeys(out, seen[0])}
            found += read_examples(data / source.path, msgspec.structs.replace(source, rename=mapped), variant)
    return found


def _familiar(said: Answers, name: str, temperature: float, known: NDArray[np.float32]) -> NDArray[np.float64]:
    assert said.vectors is not None
    chance = softmax(said.logits[name] / temperature).max(axis=1)
    return familiarity(said.vectors[said.texts[name]], known, chance)
