"""A self-supervised stage before the heads: the encoder reads texts without labels. B texts, T tokens, D wide."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.fit import another_recipe
from models.network import sentence_vector
from models.recipe import Pretraining
from models.rows import read_rows, text_of
from models.text import normalise
from models.tokens import TextTokenizer
from models.tune import learning
from schemas.errors import TrainingError, UsageError

PRETRAINED = "pretrained.pt"
_SPECIAL = 4  # tokens of a text that is empty: nothing is learned from fewer


def pretrain(
    encoder: Any,
    base: Path,
    options: Pretraining,
    data: Path,
    tokenizer: TextTokenizer,
    work: Path,
    seed: int,
    key: str = "",
) -> dict[str, float]:
    """Train what of the encoder learns; what came of it is kept in `work`, and taken from there the next time.

    Returns:
        How many texts were read, and the mean loss of the first and of the last tenth of the batches.

    Raises:
        UsageError: there are no texts, or the base has no head that guesses masked words.
        TrainingError: a loss is not a number, or what lies in `work` is of another recipe.
    """
    path = work / PRETRAINED
    weights = learning(encoder)
    if path.is_file():
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        if stored.get("recipe") != key:
            raise another_recipe(path)
        with torch.no_grad():
            for name, weight in stored["weights"].items():
                weights[name].copy_(weight)
        return cast("dict[str, float]", stored["figures"])
    torch.manual_seed(seed)
    texts = read_texts(data, options, seed)
    losses = _run(encoder, base, options, texts, tokenizer, list(weights.values()), seed)
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    figures = {"texts": float(len(texts)), "first_loss": round(first, 4), "last_loss": round(last, 4)}
    kept = {name: weight.detach().cpu() for name, weight in weights.items()}
    torch.save({"recipe": key, "weights": kept, "figures": figures}, path)
    return figures


def read_texts(data: Path, options: Pretraining, seed: int) -> list[str]:
    """As many texts as the recipe asks for, drawn from its files; each once.

    Raises:
        UsageError: there is none.
    """
    found: dict[str, None] = {}
    for name in options.paths:
        found |= {normalise(text_of(row, options.text, where)): None for where, row in read_rows(data / name)}
    texts = [text for text in found if text]
    if not texts:
        raise UsageError("pretraining: the files have no text; check `paths` and `text`.")
    order = np.random.default_rng(seed).permutation(len(texts))[: options.texts]
    return [texts[number] for number in order]


def _run(
    encoder: Any,
    base: Path,
    options: Pretraining,
    texts: list[str],
    tokenizer: TextTokenizer,
    weights: list[nn.Parameter],
    seed: int,
) -> list[float]:
    device = next(encoder.parameters()).device
    loss_of = (
        _Contrastive(encoder, options) if options.method == "contrastive" else _Masked(encoder, base, options)
    )
    loss_of.to(device)
    optimizer = torch.optim.AdamW([*weights, *loss_of.own()], options.learning_rate)
    losses: list[float] = []
    loss_of.train()
    for part in loss_of.modules():
        if isinstance(part, nn.Dropout):
            part.p = options.dropout
    for ids, attention, words in _batches(texts, tokenizer, options.batch_texts, seed, device):
        loss = loss_of(ids, attention, words)
        if not math.isfinite(float(loss.detach())):
            raise TrainingError("pretraining: a loss is not a number; lower its learning_rate.")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    encoder.eval()
    return losses


def _batches(
    texts: list[str], tokenizer: TextTokenizer, count: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of texts of about equal length, in random order."""
    encodings = tokenizer.encode(texts)
    draw = np.random.default_rng(seed)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    order = np.argsort(lengths + draw.uniform(0, _SPECIAL, len(lengths)), kind="stable")
    parts: list[NDArray[np.int64]] = [order[start : start + count] for start in range(0, len(order), count)]
    for number in draw.permutation(len(parts)):
        if len(parts[number]) > 1:
            batch = tokenizer.collate(texts, encodings, parts[number])
            ids, attention, words = (
                torch.from_numpy(each).to(device)
                for each in (batch.input_ids, batch.attention_mask, batch.word_mask)
            )
            yield ids, attention, words


class _Contrastive(nn.Module):
    """SimCSE (Gao et al. 2021): under dropout a text's two vectors are closer to each other than to others'."""

    def __init__(self, encoder: Any, options: Pretraining) -> None:
        super().__init__()
        self.encoder = encoder
        self._temperature = options.temperature

    def own(self) -> list[nn.Parameter]:
        return []

    def forward(self, ids: Tensor, attention: Tensor, words: Tensor) -> Tensor:
        first, second = (self._vectors(ids, attention) for _ in range(2))  # [B, D]
        similar = first @ second.T / self._temperature  # [B, B]
        return functional.cross_entropy(similar, torch.arange(len(ids), device=ids.device))

    def _vectors(self, ids: Tensor, attention: Tensor) -> Tensor:
        return sentence_vector(self.encoder(input_ids=ids, attention_mask=attention).last_hidden_state, attention)


class _Masked(nn.Module):
    """Masked-language modelling (Devlin et al. 2019): of the masked tokens all become [MASK]."""

    def __init__(self, encoder: Any, base: Path, options: Pretraining) -> None:
        super().__init__()
        self._model, self._mask = masked_model(base)
        setattr(self._model, self._model.base_model_prefix, encoder)
        self._share = options.masked
        self._encoder = encoder

    def own(self) -> list[nn.Parameter]:
        shared = {id(weight) for weight in self._encoder.parameters()}
        return [weight for weight in self._model.parameters() if id(weight) not in shared]

    def forward(self, ids: Tensor, attention: Tensor, words: Tensor) -> Tensor:
        masked = (torch.rand(ids.shape, device=ids.device) < self._share) & (words > 0)  # [B, T]
        if not masked.any():
            masked = words > 0
        seen = ids.masked_fill(masked, self._mask)
        logits = self._model(input_ids=seen, attention_mask=attention).logits  # [B, T, V]
        return functional.cross_entropy(logits[masked], ids[masked])


def masked_model(base: Path) -> tuple[Any, int]:
    """The base with its head that guesses masked words, and the number of its [MASK] token.

    Raises:
        UsageError: the base brings no such head.
    """
    import transformers
    from tokenizers import Tokenizer

    config = transformers.AutoConfig.from_pretrained(base)
    tokens = Tokenizer.from_file(str(base / "tokenizer.json"))
    mask = tokens.token_to_id("[MASK]")
    mask = tokens.token_to_id("<mask>") if mask is None else mask
    if mask is None or not any(name.endswith("ForMaskedLM") for name in config.architectures or ()):
        raise UsageError(
            f"pretraining: the base in {base} brings no head that guesses masked words "
            f"(its architectures are {', '.join(config.architectures or ()) or 'not stated'}); use contrastive."
        )
    return transformers.AutoModelForMaskedLM.from_pretrained(base, dtype="float32"), mask
