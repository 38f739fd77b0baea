"""The network: one encoder, and per head an attention over its token states. B texts, T tokens, D wide."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bundle import EMBEDDING, HeadShape


class AttentionHead(nn.Module):
    """Additive attention pooling (Bahdanau et al. 2015; Yang et al. 2016) and a classifier of one hidden layer.

    z_i = w . tanh(W x_i + c) + b, alpha = softmax(z) over word tokens, y = classifier(sum alpha_i x_i).

    Args:
        width: D, of the token states.
        labels: L.
        shape: widths of the hidden layers.
        dropout: of token states, pooled vectors and the classifier's hidden layer, while training.
    """

    def __init__(self, width: int, labels: int, shape: HeadShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, shape.attention_width)
        self.weight = nn.Linear(shape.attention_width, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(
            nn.Linear(width, shape.classifier_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(shape.classifier_width, labels),
        )

    def forward(self, states: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, L] and attention [B, T] from states [B, T, D] and a mask of word tokens [B, T].

        A text without a word pools its first token, [CLS], and its attention is 0 everywhere.
        """
        words = word_mask.to(states.dtype)  # [B, T]
        worded = (words.sum(dim=1, keepdim=True) > 0).to(states.dtype)  # [B, 1]
        first = functional.pad(torch.ones_like(words[:, :1]), (0, words.shape[1] - 1))  # [B, T]
        allowed = words + (1.0 - worded) * first  # [B, T]
        z = self.weight(torch.tanh(self.hidden(states))).squeeze(-1)  # [B, T]
        # A finite floor in place of -inf, which would give NaN gradients; exp() of it is exactly 0.
        z = z * allowed + (1.0 - allowed) * -1e4  # [B, T]
        alpha = torch.softmax(z, dim=1)  # [B, T]
        pooled = (alpha.unsqueeze(-1) * self.dropout(states)).sum(dim=1)  # [B, D]
        return self.classifier(self.dropout(pooled)), alpha * worded  # [B, L], [B, T]


class Network(nn.Module):
    """An encoder of the BERT class under several attention heads and the base's own sentence vector.

    Args:
        encoder: a Hugging Face encoder; called with input_ids and attention_mask.
        labels: number of labels of each classification head, by name, in order.
        shape: of every head, and the encoder layer that all of them read.
    """

    def __init__(self, encoder: Any, labels: Mapping[str, int], shape: HeadShape) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer = shape.layer
        width = int(encoder.config.hidden_size)
        self.heads = nn.ModuleDict({name: AttentionHead(width, n, shape) for name, n in labels.items()})

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token states [B, T, D] of the layer that heads read, and of the last, from inputs [B, T]."""
        layers = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        return layers[self.layer], layers[-1]  # [B, T, D], [B, T, D]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor) -> tuple[Tensor, ...]:
        """All outputs in the order of `output_names`: logits [B, L] and alpha [B, T] a head, embedding [B, D]."""
        states, last = self.encode(input_ids, attention_mask)  # [B, T, D], [B, T, D]
        outputs: list[Tensor] = []
        for head in self.heads.values():
            outputs.extend(head(states, word_mask))  # [B, L], [B, T]
        return *outputs, sentence_vector(last, attention_mask)  # [B, D]

    def output_names(self) -> list[str]:
        """Names of what `forward` returns: `<head>.logits`, `<head>.alpha`, ..., `embedding`."""
        return [f"{name}.{part}" for name in self.heads for part in ("logits", "alpha")] + [EMBEDDING]


def sentence_vector(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over all tokens but padding, L2-normalised, as in Sentence-BERT (Reimers and Gurevych 2019)."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)  # [B, D]
    return functional.normalize(mean, dim=1)  # [B, D]
