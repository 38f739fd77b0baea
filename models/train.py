"""From a recipe and a folder of data to a bundle: read, train, calibrate, export, test, write."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from models import corpus as corpora
from models.base import WEIGHTS, base_folder, load_encoder
from models.bundle import TOKENIZER, Base, Bundle, Precision, load_bundle, sha256
from models.corpus import Corpus, base_vectors
from models.data import SPLITS, Split, read_splits
from models.export import load_network, require_empty
from models.finish import Trained, write
from models.fit import Report, fingerprint, fit
from models.network import Network
from models.pretrain import pretrain
from models.recipe import Encoder, Recipe, load_recipe
from models.tokens import TextTokenizer
from models.tune import learning, prepare
from schemas.errors import BundleError


def train(
    recipe: str, data: Path, out: Path, precision: Precision = "int8", report: Report = lambda *_: None
) -> dict[str, Any]:
    """Train the recipe's heads, calibrate, export, test on the split that chose nothing, and write the bundle.

    Checkpoint and log lie in the folder OUT.training; the same call after a kill goes on from there.

    Args:
        recipe: a TOML file, or the name of a recipe that comes with Salience.
        data: the folder in which the recipe's files lie.
        out: the bundle's folder, which must not exist or be empty.
        precision: of the graphs.
        report: as in `models.fit.fit`.

    Returns:
        What was written to metrics.json.

    Raises:
        UsageError: recipe or data are not usable, or `out` holds files.
        BundleError: the base is not usable, or the graphs stray too far from the network.
        TrainingError: a loss is not a number, or the checkpoint is of another run.
    """
    asked = load_recipe(recipe)
    require_empty(out)
    started = time.monotonic()
    trained = learn(asked, data, out.with_name(f"{out.name}.training"), report)
    command = f"salience model train {recipe} --data DIR --out BUNDLE"
    return write(trained, asked, out, precision, command, started)


def use_threads(count: int) -> None:
    """Train on so many threads of the CPU; 0 leaves it to torch."""
    if count:
        torch.set_num_threads(count)


def learn(recipe: Recipe, data: Path, work: Path, report: Report = lambda *_: None) -> Trained:
    """Read the data and train the network; begun anew after a kill, it goes on from its last checkpoint.

    Runs on the GPU when there is one.

    Args:
        recipe: what to train.
        data: the folder in which the recipe's files lie.
        work: takes checkpoint, log and the base's vectors.
        report: as in `models.fit.fit`.

    Raises:
        UsageError: the data or the recipe are not usable.
        BundleError: the base is not usable.
        TrainingError: a loss is not a number, or the checkpoint is of another run.
    """
    folder = base_folder(recipe.base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(folder).to(device)
    tokenizer = TextTokenizer(folder / TOKENIZER, recipe.max_length)
    found = read_splits(data, recipe)
    splits = {split: corpora.read(found[split], recipe, tokenizer) for split in SPLITS}
    base = Base(recipe.base, sha256(folder / WEIGHTS))
    work.mkdir(parents=True, exist_ok=True)
    if any(head.kind == "embedding" for head in recipe.heads):
        _add_vectors(splits, encoder, tokenizer, base, work)
    torch.manual_seed(recipe.training.seed)
    log: dict[str, Any] = {"device": device_name(device)}
    source = _begin(encoder, recipe) if recipe.encoder.start else None
    encoder, tuned = prepare(encoder, recipe.encoder)
    key = fingerprint(recipe, source.identity if source else "")
    if recipe.pretraining:
        stage = recipe.pretraining
        log["pretraining"] = pretrain(encoder, folder, stage, data, tokenizer, work, recipe.training.seed, key)
    network = Network(encoder, recipe.heads, recipe.training.dropout).to(device)
    progress = fit(network, recipe, splits["train"], splits["validation"], tokenizer, work, report, key=key)
    log |= {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "texts": progress.texts,
        "seconds": round(progress.seconds, 1),
        "validation": progress.figures,
    }
    if recipe.training.refit_epochs:
        log["refit"] = _refit(network, recipe, splits, tokenizer, work / "refit", report)
    return Trained(network, tuned, base, folder, tokenizer, splits, log, source=source)


def _begin(encoder: Any, recipe: Recipe) -> Bundle:
    """Give the encoder the weights of the bundle that training starts with; returns that bundle.

    Raises:
        BundleError: that bundle is not usable, or stands over another base.
    """
    start = load_bundle("" if recipe.encoder.start == "packaged" else recipe.encoder.start)
    if start.manifest.base.name != recipe.base:
        raise BundleError(
            f"The bundle {start.identity} stands over {start.manifest.base.name}, and the recipe {recipe.name} "
            f"over {recipe.base}; start with a bundle over the same base."
        )
    encoder.load_state_dict(load_network(start).encoder.state_dict())
    return start


def _refit(
    network: Network,
    recipe: Recipe,
    splits: Mapping[Split, Corpus],
    tokenizer: TextTokenizer,
    work: Path,
    report: Report,
) -> dict[str, Any]:
    """Train the heads alone over the encoder as it is; the encoder learns as before when this is over."""
    training = msgspec.structs.replace(
        recipe.training, epochs=recipe.training.refit_epochs, patience=recipe.training.refit_epochs, refit_epochs=0
    )
    heads_only = msgspec.structs.replace(recipe, encoder=Encoder(tuning="frozen"), training=training)
    learned = list(learning(network.encoder).values())
    for weight in learned:
        weight.requires_grad_(False)
    progress = fit(network, heads_only, splits["train"], splits["validation"], tokenizer, work, report, keep=True)
    for weight in learned:
        weight.requires_grad_(True)
    return {
        "best_epoch": progress.best_epoch,
        "seconds": round(progress.seconds, 1),
        "validation": progress.figures,
    }


def _add_vectors(
    splits: dict[Split, Corpus], encoder: Any, tokenizer: TextTokenizer, base: Base, work: Path
) -> None:
    """Sentence vectors of the untouched base for every text, computed once for these texts and this base."""
    device = next(encoder.parameters()).device
    for split, corpus in splits.items():
        path = work / f"{split}-{base.sha256[:12]}-{corpus.digest[:12]}.npy"
        if path.is_file():
            corpus.vectors = np.load(path, allow_pickle=False)
        else:
            corpus.vectors = base_vectors(encoder, corpus, tokenizer, device)
            np.save(path, corpus.vectors)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
