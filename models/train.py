"""Trains a bundle over a frozen encoder: `python -m models.train --data DIR --out BUNDLE`."""

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import save

from models.base import PACKAGED_BASE, WEIGHTS, base_folder, load_encoder
from models.bundle import (
    CARD,
    EMBEDDING,
    GRAPH,
    HEADS,
    METRICS,
    PACKAGED,
    TOKENIZER,
    Base,
    Head,
    HeadShape,
    Manifest,
    sha256,
)
from models.calibrate import fit_temperature, negative_log_likelihood
from models.card import model_card
from models.data import SOURCES, Rows, Source, Split, read_splits
from models.evaluate import baseline, by_label, figures
from models.export import assemble, checked_graph, library_versions, require_empty
from models.fit import Fitted, Recipe, encode, fit_best, predict
from models.network import Network
from models.parity import agreement, graph_outputs, network_outputs
from models.text import NORMALISATION
from models.tokens import TextTokenizer
from schemas.errors import SalienceError
from schemas.labels import STREAMS

MAX_LENGTH = 128  # tokens; what the base was trained on
ATTENTION_WIDTH = 128
CLASSIFIER_WIDTH = 384
CLASS_WEIGHTS = (0.0, 0.5)  # tried on validation
CLASSIFIED_STREAMS = ("news", "behavior")

Splits = Mapping[Split, Rows]


def train(
    data: Path, out: Path, *, base: str = PACKAGED_BASE, name: str = PACKAGED, seed: int = 0
) -> dict[str, Any]:
    """Train the heads of `SOURCES` over a frozen base, calibrate, export as int8 and write the bundle.

    Runs on the GPU when there is one.

    Args:
        data: a folder with the folders of `SOURCES`.
        out: the bundle's folder, which must not exist or be empty.
        base: hub name or folder of the encoder.
        name: the bundle's name.
        seed: of initial weights, order and dropout.

    Returns:
        What was written to metrics.json.

    Raises:
        UsageError: the data are not usable, or `out` holds files.
        BundleError: the base is not usable, or the int8 graph strays too far from the network.
    """
    started = time.monotonic()
    require_empty(out)
    folder = base_folder(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(folder)
    tokenizer = TextTokenizer(folder / TOKENIZER, MAX_LENGTH)
    shape = head_shape(encoder.config.num_hidden_layers)
    splits = {source: read_splits(data, source) for source in SOURCES}
    network = Network(encoder, {s.head: len(s.labels) for s in SOURCES}, shape).to(device).eval()
    heads = {s.head: _train_head(network, tokenizer, s, splits[s], shape, seed) for s in SOURCES}
    command = f"python -m models.train --data DIR --out BUNDLE --base {base} --name {name} --seed {seed}"
    with TemporaryDirectory() as scratch:
        graph = Path(scratch) / GRAPH
        checked_graph(network, "int8", tokenizer, graph)
        metrics: dict[str, Any] = {"command": command, "device": _device_name(device), "heads": heads}
        metrics |= _test(network.to(device), graph, tokenizer, splits, heads)
        metrics["seconds"] = round(time.monotonic() - started, 1)
        manifest = Manifest(
            name=name,
            heads=(*_manifest_heads(heads), Head(EMBEDDING, STREAMS)),
            base=Base(base, sha256(folder / WEIGHTS)),
            precision="int8",
            max_length=MAX_LENGTH,
            normalisation=NORMALISATION,
            shape=shape,
            created_from={"command": command, "data": [s.public_name for s in SOURCES], "seed": seed},
            versions=library_versions(),
        )
        weights = {key: value.cpu().contiguous() for key, value in network.heads.state_dict().items()}
        parts: dict[str, Path | bytes] = {TOKENIZER: folder / TOKENIZER, GRAPH: graph, HEADS: save(weights)}
        parts[METRICS] = msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n"
        parts[CARD] = model_card(manifest, metrics).encode()
        assemble(out, manifest, parts)
    return metrics


def head_shape(layers: int) -> HeadShape:
    """The shape of heads over an encoder of some layers; they read the states at two thirds of its depth.

    The last layers of a sentence encoder are bent to the sense of the whole and lose what single words say:
    by macro-F1 on validation, layers 3, 4 and 5 of 6 gave sentiment .745, .754 and .735, topic .840, .861, .858.
    """
    return HeadShape(max(1, round(layers * 2 / 3)), ATTENTION_WIDTH, CLASSIFIER_WIDTH)


def _train_head(
    network: Network, tokenizer: TextTokenizer, source: Source, rows: Splits, shape: HeadShape, seed: int
) -> dict[str, Any]:
    """Train and calibrate one head inside the network; returns what metrics.json says of it before the test."""
    device = next(network.parameters()).device
    chosen: tuple[Split, ...] = ("train", "validation", "calibration")
    states = {split: encode(network, tokenizer, rows[split].texts) for split in chosen}
    fitted = fit_best(
        (states["train"], rows["train"].labels),
        (states["validation"], rows["validation"].labels),
        len(source.labels),
        [Recipe(shape, class_weight=power, seed=seed) for power in CLASS_WEIGHTS],
        device,
    )
    network.heads[source.head] = fitted.head
    logits = predict(fitted.head, states["calibration"], device)
    temperature = fit_temperature(logits, rows["calibration"].labels)
    return {
        "rows": {split: len(each.texts) for split, each in rows.items()},
        "recipe": asdict(fitted.recipe),
        **_choice(fitted),
        "temperature": temperature,
    }


def _choice(fitted: Fitted) -> dict[str, Any]:
    return {"best_epoch": fitted.epoch, "validation_macro_f1": round(fitted.validation_macro_f1, 4)}


def _test(
    network: Network,
    graph: Path,
    tokenizer: TextTokenizer,
    splits: Mapping[Source, Splits],
    heads: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Add the figures of the test split to each head, and return how int8 agrees with fp32 over all test texts."""
    texts = [text for rows in splits.values() for text in rows["test"].texts]
    exact, quantised = network_outputs(network, tokenizer, texts), graph_outputs(graph, tokenizer, texts)
    start = 0
    for source, rows in splits.items():
        labels = rows["test"].labels
        mine = slice(start, start := start + len(labels))
        logits = {"fp32": exact, "int8": quantised}
        found = {kind: outputs[f"{source.head}.logits"][mine] for kind, outputs in logits.items()}
        int8 = torch.from_numpy(found["int8"])
        temperature = heads[source.head]["temperature"]
        heads[source.head]["test"] = {
            **{kind: figures(labels, each.argmax(axis=1)) for kind, each in found.items()},
            "baseline": baseline(rows["train"], rows["validation"], rows["test"]),
            "labels": by_label(source.labels, labels, np.asarray(found["int8"].argmax(axis=1))),
            "negative_log_likelihood": {
                "uncalibrated": round(negative_log_likelihood(int8, labels), 4),
                "calibrated": round(negative_log_likelihood(int8 / temperature, labels), 4),
            },
        }
    return {"int8_against_fp32": asdict(agreement(exact, quantised))}


def _manifest_heads(heads: Mapping[str, Mapping[str, Any]]) -> list[Head]:
    return [Head(s.head, CLASSIFIED_STREAMS, s.labels, heads[s.head]["temperature"]) for s in SOURCES]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> int:
    """Read the command line, train, and say where the bundle is."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the folders of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle to write")
    parser.add_argument("--base", default=PACKAGED_BASE, help="hub name or folder of the encoder")
    parser.add_argument("--name", default=PACKAGED, help="name of the bundle")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        metrics = train(asked.data, asked.out, base=asked.base, name=asked.name, seed=asked.seed)
    except SalienceError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for head, found in metrics["heads"].items():
        test = found["test"]
        sys.stdout.write(
            f"{head}: macro-F1 {test['int8']['macro_f1']:.3f} (baseline {test['baseline']['macro_f1']:.3f})\n"
        )
    sys.stdout.write(f"{asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
