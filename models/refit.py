"""What follows training, done again for a bundle without training: n-grams, calibration, graphs, figures, card."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from models import corpus as corpora
from models.base import base_folder, load_encoder
from models.bundle import ADAPTERS, ENCODER, METRICS, TOKENIZER, Bundle, Precision, load_bundle
from models.corpus import base_vectors
from models.data import SPLITS, read_splits
from models.evaluate import recipe_of
from models.export import load_network, require_empty
from models.finish import Files, Trained, write
from models.recipe import HeadRecipe, Recipe, Splits, load_recipe
from models.tokens import TextTokenizer
from schemas.errors import UsageError


def refit(bundle: str, data: Path, out: Path, recipe: str = "", precision: Precision = "int8") -> dict[str, Any]:
    """Write a bundle whose encoder and pooling are those of another, and whose rest is found anew on data.

    Found anew are n-grams, temperatures, thresholds, confusion matrices, banks, graphs, figures and card: all but
    what gradients found. Splits are those of the bundle, lest texts that its network learned from come into its
    calibration; so `data` is the folder it was trained on, grown perhaps, or one of texts it never saw.

    Args:
        bundle: a bundle's folder, or "" for the packaged one.
        data: the folder in which the recipe's files lie.
        out: the new bundle's folder, which must not exist or be empty.
        recipe: a TOML file or a recipe's name; the bundle's own where it is "". What it says of encoder and
            training does not count.
        precision: of the graphs.

    Returns:
        What was written to metrics.json.

    Raises:
        UsageError: recipe or data are not usable, the recipe's heads or splits are not the bundle's, or `out`
            holds files.
        BundleError: bundle or base are not usable, or the graphs stray too far from the network.
    """
    started = time.monotonic()
    source = load_bundle(bundle)
    own = recipe_of(source)
    asked = load_recipe(recipe) if recipe else own
    _require_same_heads(asked, source)
    _require_same_splits(asked, own, source)
    asked = msgspec.structs.replace(asked, encoder=own.encoder, training=own.training, pretraining=own.pretraining)
    require_empty(out)
    folder = base_folder(source.manifest.base.name, source.manifest.base.sha256)
    tokenizer = TextTokenizer(source.path / TOKENIZER, asked.max_length)
    found = read_splits(data, asked)
    splits = {split: corpora.read(found[split], asked, tokenizer) for split in SPLITS}
    if any(head.kind == "embedding" for head in asked.heads):
        # Nothing is held to the base's vectors any more; only the figures compare with them.
        splits["test"].vectors = base_vectors(load_encoder(folder), splits["test"], tokenizer, torch.device("cpu"))
    network = load_network(source).requires_grad_(False)
    before = json.loads((source.path / METRICS).read_bytes())
    encoder: Files = {name: source.path / name for name in (ADAPTERS, ENCODER) if name in source.manifest.files}
    torch.manual_seed(asked.training.seed)
    trained = Trained(
        network=network,
        tuned=source.manifest.tuned,
        base=source.manifest.base,
        folder=folder,
        tokenizer=tokenizer,
        splits=splits,
        log=before["training"],
        encoder=encoder,
        source=source,
        refit=f"salience model refit --data DIR --out BUNDLE{f' --recipe {recipe}' if recipe else ''}",
    )
    return write(trained, asked, out, precision, before["command"], started - before["seconds"])


def _require_same_heads(recipe: Recipe, bundle: Bundle) -> None:
    """Refuse a recipe for another network."""
    mine = {head.name: head for head in bundle.manifest.heads}
    asked = {head.name: head for head in recipe.heads}
    if set(mine) != set(asked):
        raise UsageError(
            f"The recipe {recipe.name} has the heads {', '.join(asked)}, and the bundle {bundle.identity} has "
            f"{', '.join(mine)}; they must be the same. Train a bundle of that recipe instead."
        )
    for name, head in asked.items():
        if difference := _difference(head, mine[name]):
            raise UsageError(
                f"The head {name} has other {difference} in the recipe {recipe.name} than in the bundle "
                f"{bundle.identity}; train a bundle of that recipe instead."
            )
    if recipe.base != bundle.manifest.base.name or recipe.max_length != bundle.manifest.max_length:
        raise UsageError(
            f"The recipe {recipe.name} has another base or max_length than the bundle {bundle.identity}; train a "
            "bundle of that recipe instead."
        )


def _require_same_splits(recipe: Recipe, own: Recipe, bundle: Bundle) -> None:
    if recipe.splits != own.splits:
        raise UsageError(
            f"The recipe {recipe.name} splits texts otherwise than the bundle {bundle.identity}: texts that it "
            f"learned from would calibrate and test it. Take over its section [splits]: {_spelled(own.splits)}."
        )


def _spelled(splits: Splits) -> str:
    return ", ".join(f"{name} = {value}" for name, value in msgspec.structs.asdict(splits).items())


def _difference(one: HeadRecipe, other: object) -> str:
    parts = ("kind", "labels", "layer", "attention_width", "classifier_width", "spans")
    return next((name for name in parts if getattr(one, name) != getattr(other, name)), "")
