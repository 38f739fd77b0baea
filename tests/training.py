"""What tests of training share: the tiny recipe's texts ready for a network, and a network for them."""

from pathlib import Path
from typing import Any

import torch
from tiny_bundle import RECIPE, tiny_data, to_toml

from models import corpus as corpora
from models.base import load_encoder
from models.corpus import Corpus, base_vectors
from models.data import SPLITS, Split, read_splits
from models.network import Network
from models.recipe import Recipe, load_recipe
from models.tokens import TextTokenizer
from models.tune import prepare

CPU = torch.device("cpu")


class Bench:
    """A recipe over a base, its corpora, and as many fresh networks as a test asks for."""

    def __init__(self, base: Path, folder: Path, **training: Any) -> None:
        path = folder / "bench.toml"
        path.write_text(to_toml({**RECIPE, "base": str(base), "training": {**RECIPE["training"], **training}}))
        self.base = base
        self.recipe: Recipe = load_recipe(str(path))
        self.tokenizer = TextTokenizer(base / "tokenizer.json", self.recipe.max_length)
        found = read_splits(tiny_data(folder / "data"), self.recipe)
        self.splits: dict[Split, Corpus] = {
            split: corpora.read(found[split], self.recipe, self.tokenizer) for split in SPLITS
        }
        encoder = load_encoder(base)
        for each in self.splits.values():
            each.vectors = base_vectors(encoder, each, self.tokenizer, CPU)

    def network(self, seed: int = 0) -> Network:
        """A network that has learned nothing."""
        torch.manual_seed(seed)
        encoder, _ = prepare(load_encoder(self.base), self.recipe.encoder)
        return Network(encoder, self.recipe.heads, self.recipe.training.dropout)
