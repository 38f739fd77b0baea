"""What follows training: calibrate the heads, export, test on what chose nothing, and write the bundle."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.behaviour import behaviour
from models.blend import add_ngrams
from models.bundle import (
    CARD,
    GRAPH,
    HEADS,
    METRICS,
    NOTICE,
    RECIPE,
    SPAN_GRAPH,
    TOKENIZER,
    TRAINED,
    Base,
    Bundle,
    Head,
    Manifest,
    Precision,
    Tuned,
    load_bundle,
)
from models.calibrate import bank, confusion, fit_temperature, none_below, packed, threshold
from models.card import model_card, notice
from models.corpus import Corpus
from models.data import SPLITS, Split
from models.export import assemble, checked_graphs, encoder_weights, heads_of, library_versions
from models.graphs import Graphs
from models.interpret import familiarity, softmax
from models.leaks import fingerprints, known_by, leaked
from models.network import Network
from models.predict import Answers, answers
from models.recipe import HeadRecipe, Recipe
from models.report import test_figures
from models.runner import NetworkRunner, Runner
from models.runtime import OnnxScorer
from models.text import NORMALISATION
from models.tokens import TextTokenizer
from models.tune import changed, learning, merged

Banks = dict[str, NDArray[np.float32]]
Files = dict[str, Path | bytes]


@dataclass(slots=True)
class Trained:
    """A network whose training is over, and all that it was made from.

    Its encoder still has its adapters, or `encoder` holds the files of what it learned. `source` is the bundle
    whose weights it has, or had to begin with; `refit` the command, where nothing was trained any more.
    """

    network: Network
    tuned: Tuned
    base: Base
    folder: Path
    tokenizer: TextTokenizer
    splits: dict[Split, Corpus]
    log: dict[str, Any]
    encoder: Files | None = None
    source: Bundle | None = None
    refit: str = ""


def write(
    trained: Trained, recipe: Recipe, out: Path, precision: Precision, command: str, started: float
) -> dict[str, Any]:
    """Calibrate, export, test and write what was trained; returns what metrics.json says.

    Args:
        command: by which the bundle can be made again.
        started: when that began, by `time.monotonic`.

    Raises:
        BundleError: the graphs stray too far from the network; nothing is written.
    """
    tokenizer, splits = trained.tokenizer, trained.splits
    _round(trained)
    weights = dict(_encoder_files(trained))
    network = trained.network.eval()
    network.encoder = merged(network.encoder)
    ngrams = add_ngrams(network, recipe, splits, tokenizer)
    weights[HEADS] = heads_of(network)
    heads, banks, calibration = calibrated(NetworkRunner(network), recipe, splits, tokenizer)
    heads = tuple(
        msgspec.structs.replace(head, ngram_rows=ngrams[head.name]["rows"]) if head.name in ngrams else head
        for head in heads
    )
    with TemporaryDirectory() as scratch:
        graphs, parity = checked_graphs(network, heads, precision, tokenizer, Path(scratch))
        runners: dict[str, Runner] = {"fp32": NetworkRunner(network)}
        if precision != "fp32":
            runners[precision] = Graphs(graphs[GRAPH], graphs.get(SPAN_GRAPH), "cpu", threads=0)
        metrics: dict[str, Any] = {
            "command": command,
            "training": trained.log,
            "source": source_of(trained, splits["test"].texts),
            "refit": trained.refit,
            "rows": {split: dict(_rows(corpus, recipe)) for split, corpus in splits.items()},
            "calibration": calibration,
            "ngrams": ngrams,
            "heads": test_figures(runners, heads, banks, recipe, splits, tokenizer),
            "parity": asdict(parity),
        }
        manifest = _manifest(trained, recipe, heads, precision, command)
        files = _files(trained, recipe, heads, banks) | weights | graphs
        trial = Path(scratch) / "trial"
        assemble(trial, manifest, {**files, METRICS: b"{}", CARD: b""})
        metrics["behaviour"] = msgspec.to_builtins(behaviour(OnnxScorer(load_bundle(str(trial)), cache_size=0)))
        metrics["seconds"] = round(time.monotonic() - started, 1)
        card = model_card(manifest, recipe, metrics).encode()
        assemble(out, manifest, {**files, METRICS: _json(metrics), CARD: card})
    return metrics


def source_of(trained: Trained, texts: Sequence[str]) -> dict[str, Any]:
    """The bundle that this one was made from, and how many of these texts had made it; empty without one."""
    source = trained.source
    return {} if source is None else {"bundle": source.identity, "knew": int(leaked(texts, source).sum())}


def _manifest(
    trained: Trained, recipe: Recipe, heads: tuple[Head, ...], precision: Precision, command: str
) -> Manifest:
    return Manifest(
        name=recipe.name,
        heads=heads,
        base=trained.base,
        tuned=trained.tuned,
        precision=precision,
        max_length=recipe.max_length,
        normalisation=NORMALISATION,
        languages=recipe.languages,
        created_from={
            "command": command,
            "data": [data.name or data.path for data in recipe.data],
            **({"bundle": trained.source.identity} if trained.source else {}),
            **({"refit": trained.refit} if trained.refit else {}),
        },
        versions=library_versions(),
    )


def _files(trained: Trained, recipe: Recipe, heads: tuple[Head, ...], banks: Banks) -> Files:
    """What of a bundle is neither weights, nor graphs, nor figures."""
    known = fingerprints(text for split in SPLITS if split != "test" for text in trained.splits[split].texts)
    if trained.source is not None:
        known = np.union1d(known, known_by(trained.source))
    files: Files = {
        TOKENIZER: trained.folder / TOKENIZER,
        RECIPE: _json(msgspec.to_builtins(recipe)),
        TRAINED: _npy(known),
    }
    files |= {head.bank: _npy(packed(banks[head.name])) for head in heads if head.none_below is not None}
    return files | ({NOTICE: notice(recipe).encode()} if recipe.ships else {})


def calibrated(
    runner: NetworkRunner, recipe: Recipe, splits: Mapping[Split, Corpus], tokenizer: TextTokenizer
) -> tuple[tuple[Head, ...], Banks, dict[str, Any]]:
    """The heads with temperature, thresholds and confusion matrix; their banks; and what there is to say of that.

    All of it is found on the calibration split, on which nothing was trained and by which nothing was chosen but
    the two factors that weigh a head's n-grams.
    """
    said = answers(runner, splits["calibration"], recipe, tokenizer)
    heads: list[Head] = []
    banks: Banks = {}
    notes: dict[str, Any] = {}
    for head in recipe.heads:
        plain = Head(
            name=head.name,
            kind=head.kind,
            streams=head.streams,
            labels=head.labels,
            spans=head.spans,
            layer=head.layer,
            attention_width=head.attention_width,
            classifier_width=head.classifier_width,
            ngrams=head.ngrams,
        )
        if head.name not in said.logits:
            heads.append(plain)
            continue
        found, notes[head.name] = _thresholds(plain, head, said)
        if head.none == "nearest" and said.vectors is not None:
            banks[head.name] = _bank(head.name, runner, recipe, splits["train"], tokenizer)
            mine = said.vectors[said.texts[head.name]]
            chance = softmax(said.logits[head.name] / found.temperature).max(axis=1)
            limit = none_below(familiarity(mine, banks[head.name], chance))
            found = msgspec.structs.replace(found, none_below=limit)
            notes[head.name]["none"] = {"below": found.none_below, "bank": len(banks[head.name])}
        heads.append(found)
    return tuple(heads), banks, notes


def _thresholds(head: Head, recipe: HeadRecipe, said: Answers) -> tuple[Head, dict[str, Any]]:
    logits, labels = said.logits[head.name], said.labels[head.name]
    temperature = fit_temperature(logits, labels)
    notes: dict[str, Any] = {"n": len(labels), "temperature": temperature}
    unsure = 0.0
    if recipe.precision:
        limit = threshold(logits, labels, temperature, recipe.precision)
        unsure = limit.probability
        notes["unsure"] = {"target": recipe.precision, **asdict(limit)}
    made = msgspec.structs.replace(
        head, temperature=temperature, unsure_below=unsure, confusion=confusion(logits, labels)
    )
    return made, notes


def _encoder_files(trained: Trained) -> Files:
    if trained.encoder is not None:
        return trained.encoder
    return dict(encoder_weights(trained.network, trained.tuned))


def _bank(
    name: str, runner: NetworkRunner, recipe: Recipe, corpus: Corpus, tokenizer: TextTokenizer
) -> NDArray[np.float32]:
    mine = [number for number, target in enumerate(corpus.targets) if name in target.labels]
    said = answers(runner, corpus.of(mine), recipe, tokenizer)
    assert said.vectors is not None
    return bank(said.vectors, [corpus.targets[number].labels[name] for number in mine])


def _round(trained: Trained) -> None:
    """Make what was trained what the bundle's files hold of it, in half precision."""
    network = trained.network
    kept = [*learning(network.encoder).values(), *network.heads.parameters()]
    if trained.tuned.tuning == "full":
        kept += changed(network.encoder, trained.tuned).values()
    with torch.no_grad():
        for weight in kept:
            weight.copy_(weight.half().float())


def _rows(corpus: Corpus, recipe: Recipe) -> list[tuple[str, int]]:
    return [(data.path, count) for data, count in zip(recipe.data, corpus.files, strict=True)]


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
