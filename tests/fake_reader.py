"""A tokenizer of whole words and a head whose attention is known to be right, or useless; nothing is trained."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.bundle import TOKENIZER, Base, Bundle, Head, Manifest
from models.text import NORMALISATION
from models.tokens import Batch

FILLERS = ("the", "a", "of", "and", "to", "in", "on", "at", "by", "for", "with", "from", "this", "that")
HEAD = Head(name="sentiment", kind="label", streams=("news",), labels=("negative", "neutral", "positive"))
GOOD = 5  # number of the token that makes a text positive


def fake_bundle(folder: Path, mask: bool = True, max_length: int = 64) -> Bundle:
    """A bundle of one head, of which nothing but the tokenizer is on disk; the token "good" is number `GOOD`."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" if mask else "[unused]", "good", *FILLERS]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER))
    manifest = Manifest(
        name="fake",
        heads=(HEAD,),
        base=Base("none", ""),
        precision="fp32",
        max_length=max_length,
        normalisation=NORMALISATION,
        created_from={},
        versions={},
    )
    return Bundle(folder, manifest, "fake@000000000000")


class FakeReader:
    """Says positive where the token "good" stands, else negative; sure of both.

    Args:
        right: attention sits on "good"; else it is drawn anew for each text.
    """

    def __init__(self, right: bool) -> None:
        self._right = right
        self._draw = np.random.default_rng(7)

    def texts(self, batch: Batch) -> Mapping[str, NDArray[np.float32]]:
        good = batch.input_ids == GOOD  # [B, T]
        sure = np.where(good.any(axis=1), 4.0, -4.0).astype(np.float32)  # [B]
        weights = good + 0.01 if self._right else self._draw.random(good.shape)
        weights = weights * (batch.word_numbers >= 0)
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        logits = np.stack([-sure, np.zeros_like(sure) - 4, sure], axis=1)
        return {"sentiment.logits": logits, "sentiment.alpha": (weights / total).astype(np.float32)}


def rows(count: int, words: int = 10) -> list[tuple[str, str]]:
    """Texts of fillers with one "good" somewhere, all positive."""
    draw = np.random.default_rng(3)
    found: list[tuple[str, str]] = []
    for _ in range(count):
        text = draw.choice(FILLERS, words).tolist()
        text[draw.integers(words)] = "good"
        found.append((" ".join(text), "positive"))
    return found
