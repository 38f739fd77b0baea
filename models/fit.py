"""Trains one head on the states of a frozen encoder, which are computed once. N texts, T tokens, D wide."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import OneCycleLR

from models.bundle import HeadShape
from models.network import AttentionHead, Network
from models.tokens import TextTokenizer

ENCODE_TOKENS = 4096  # padded tokens a batch


@dataclass(frozen=True, slots=True)
class States:
    """Token states of N texts, each [T, D] in half precision on the CPU, and the mask of word tokens, each [T]."""

    tokens: list[Tensor]
    words: list[Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained: AdamW (Loshchilov and Hutter 2019), one cycle (Smith 2018), early stopping.

    `class_weight` is the power of (mean label count / label count) that weighs the loss: 0 weighs all texts
    alike, 1 all labels alike. `patience` counts epochs without a better macro-F1 on validation.
    """

    shape: HeadShape
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    class_weight: float = 0.0
    batch_texts: int = 64
    epochs: int = 8
    patience: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained head, the recipe that made it, and its best epoch (from 1) by macro-F1 on validation."""

    head: AttentionHead
    recipe: Recipe
    epoch: int
    validation_macro_f1: float


def encode(network: Network, tokenizer: TextTokenizer, texts: Sequence[str]) -> States:
    """Token states that heads read, of normalised texts, computed on the network's device."""
    device = next(network.parameters()).device
    tokens: list[Tensor] = [torch.empty(0)] * len(texts)
    words: list[Tensor] = list(tokens)
    for batch in tokenizer.batches(texts, ENCODE_TOKENS):
        attention = torch.from_numpy(batch.attention_mask).to(device)  # [B, T]
        with torch.inference_mode():
            states, _ = network.encode(torch.from_numpy(batch.input_ids).to(device), attention)  # [B, T, D]
        for row, position in enumerate(batch.positions.tolist()):
            length = int(batch.attention_mask[row].sum())
            tokens[position] = states[row, :length].to("cpu", torch.float16, copy=True)
            words[position] = torch.from_numpy(batch.word_mask[row, :length])
    return States(tokens, words)


def fit_best(
    train: tuple[States, Sequence[int]],
    validation: tuple[States, Sequence[int]],
    labels: int,
    recipes: Sequence[Recipe],
    device: torch.device,
) -> Fitted:
    """Train a head by each recipe and keep the one with the best macro-F1 on validation."""
    fitted = [fit(train, validation, labels, recipe, device) for recipe in recipes]
    return max(fitted, key=lambda each: each.validation_macro_f1)


def fit(
    train: tuple[States, Sequence[int]],
    validation: tuple[States, Sequence[int]],
    labels: int,
    recipe: Recipe,
    device: torch.device,
) -> Fitted:
    """Train one head, and keep its weights of the best epoch on validation.

    Args:
        train, validation: states and the number of the label of each text.
        labels: number of labels.
        recipe: how; its seed decides initial weights, order and dropout.
        device: where to train.
    """
    states, numbers = train
    torch.manual_seed(recipe.seed)
    width = states.tokens[0].shape[1]
    head = AttentionHead(width, labels, recipe.shape, recipe.dropout).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(numbers) // recipe.batch_texts)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    weight = label_weights(numbers, labels, recipe.class_weight).to(device)  # [L]
    loss_of = nn.CrossEntropyLoss(weight=weight)
    target = torch.tensor(numbers, device=device)  # [N]
    best = Fitted(head, recipe, 0, -1.0)
    for epoch in range(1, recipe.epochs + 1):
        head.train()
        for chosen in shuffled(states, recipe.batch_texts):
            logits, _ = head(*padded(states, chosen, device))  # [B, L]
            loss = loss_of(logits, target[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        found = predict(head, validation[0], device).argmax(dim=1)  # [N]
        macro = float(f1_score(validation[1], found.numpy(), average="macro"))
        if macro > best.validation_macro_f1:
            best = replace(best, head=copy.deepcopy(head), epoch=epoch, validation_macro_f1=macro)
        elif epoch - best.epoch >= recipe.patience:
            break
    return best


def predict(head: AttentionHead, states: States, device: torch.device) -> Tensor:
    """Logits [N, L] in fp32 on the CPU, texts in order."""
    head.eval()
    order = sorted(range(len(states.tokens)), key=lambda position: len(states.tokens[position]))
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), 256):
            parts.append(head(*padded(states, order[start : start + 256], device))[0].cpu())
    logits = torch.cat(parts)  # [N, L]
    return logits[torch.tensor(order).argsort()]


def label_weights(numbers: Sequence[int], labels: int, power: float) -> Tensor:
    """Weight of each label [L]; a label without texts weighs as one that has a single text."""
    counts = torch.bincount(torch.tensor(numbers), minlength=labels).clamp(min=1).float()  # [L]
    return (counts.mean() / counts) ** power


def shuffled(states: States, batch_texts: int) -> Iterator[list[int]]:
    """Positions of all texts in random batches of about equal lengths, so that little is padding."""
    noise = torch.rand(len(states.tokens)) * 8.0  # tokens
    lengths = torch.tensor([float(len(each)) for each in states.tokens]) + noise
    batches = torch.split(lengths.argsort(), batch_texts)
    for number in torch.randperm(len(batches)).tolist():
        yield batches[number].tolist()


def padded(states: States, chosen: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """States [B, T, D] in fp32 and word mask [B, T] of the chosen texts."""
    tokens = pad_sequence([states.tokens[position] for position in chosen], batch_first=True)
    words = pad_sequence([states.words[position] for position in chosen], batch_first=True)
    return tokens.to(device).float(), words.to(device)
