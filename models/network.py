"""The network: one encoder, and heads over its token states. B texts, T tokens, D wide, S spans."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bundle import EMBEDDING, Head
from models.ngrams import Ngrams
from models.spans import RELATIONS
from models.text import SHAPES

_SHAPE_WIDTH = 24


class HeadLike(Protocol):
    """What of a head decides its layers: of a manifest or of a recipe."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def layer(self) -> int: ...
    @property
    def attention_width(self) -> int: ...
    @property
    def classifier_width(self) -> int: ...
    @property
    def ngrams(self) -> int: ...
    @property
    def ngram_rows(self) -> int: ...


class AttentionPooling(nn.Module):
    """Additive attention pooling (Bahdanau et al. 2015; Yang et al. 2016) over any sequence of states.

    z_i = w . tanh(W x_i + c) + b, alpha = softmax(z) over what the mask allows, pooled = sum alpha_i x_i.
    """

    def __init__(self, width: int, attention_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, attention_width)
        self.weight = nn.Linear(attention_width, 1)

    def forward(self, states: Tensor, mask: Tensor, hint: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pooled states [B, D] and attention [B, T] from states [B, T, D] and a mask [B, T].

        Where nothing is allowed the first state is pooled, [CLS], and the attention is 0 everywhere. `hint`
        [B, T, A] is added before the tanh.
        """
        words = mask.to(states.dtype)  # [B, T]
        worded = (words.sum(dim=1, keepdim=True) > 0).to(states.dtype)  # [B, 1]
        first = functional.pad(torch.ones_like(words[:, :1]), (0, words.shape[1] - 1))  # [B, T]
        allowed = words + (1.0 - worded) * first  # [B, T]
        hidden = self.hidden(states)  # [B, T, A]
        z = self.weight(torch.tanh(hidden if hint is None else hidden + hint)).squeeze(-1)  # [B, T]
        # A finite floor in place of -inf, which would give NaN gradients; exp() of it is exactly 0.
        z = z * allowed + (1.0 - allowed) * -1e4  # [B, T]
        alpha = torch.softmax(z, dim=1)  # [B, T]
        pooled = (alpha.unsqueeze(1) @ states).squeeze(1)  # [B, D]
        return pooled, alpha * worded  # [B, D], [B, T]


class LabelHead(nn.Module):
    """One label of a sequence: attention pooling, then a classifier with one hidden layer, or none at width 0.

    Where `ngrams` is set, what it says of the tokens is added to the logits: wide beside deep (Cheng et al. 2016),
    but fitted apart (`models.blend`).
    """

    ngrams: Ngrams | None

    def __init__(
        self, width: int, labels: int, attention_width: int, classifier_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.pooling = AttentionPooling(width, attention_width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier(width, labels, classifier_width, dropout)
        self.ngrams = None

    def forward(self, states: Tensor, mask: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, L] and attention [B, T] from states [B, T, D], a mask [B, T] and token numbers [B, T].

        Raises:
            ValueError: the head has n-grams, which read the numbers, and they are not given.
        """
        logits, alpha = self.without_ngrams(states, mask)
        if self.ngrams is not None:
            if ids is None:
                raise ValueError("n-grams read token numbers: give ids, or call without_ngrams")
            logits = logits + self.ngrams(ids, mask)
        return logits, alpha

    def without_ngrams(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the states alone say: logits [B, L] and attention [B, T]."""
        pooled, alpha = self.pooling(states, mask)  # [B, D], [B, T]
        return self.classifier(self.dropout(pooled)), alpha


class EntityHead(nn.Module):
    """BIO tags of each token, from its state and the shapes of its word and of its neighbours."""

    def __init__(self, width: int, tags: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.shapes = nn.Embedding(SHAPES, _SHAPE_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width + 3 * _SHAPE_WIDTH, hidden_width)
        self.tags = nn.Linear(hidden_width, tags)

    def forward(self, states: Tensor, shapes: Tensor) -> Tensor:
        """Logits [B, T, L] from states [B, T, D] and shapes of words [B, T]."""
        here = self.shapes(shapes)  # [B, T, H]
        before = functional.pad(here, (0, 0, 1, 0))[:, :-1]
        after = functional.pad(here, (0, 0, 0, 1))[:, 1:]
        seen = torch.cat([self.dropout(states), before, here, after], dim=-1)
        logits: Tensor = self.tags(self.dropout(functional.gelu(self.hidden(seen))))
        return logits


class SpanHead(nn.Module):
    """One label of a span within its text: the pooling knows the span and where each word stands to it."""

    def __init__(
        self, width: int, labels: int, attention_width: int, classifier_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.pooling = AttentionPooling(width, attention_width)
        self.span = nn.Linear(width, attention_width, bias=False)
        self.relation = nn.Embedding(RELATIONS, attention_width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier(2 * width, labels, classifier_width, dropout)

    def forward(self, states: Tensor, rows: Tensor, relation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S, L] and attention [S, T].

        Args:
            states: [B, T, D] of the texts.
            rows: [S], the text of each span.
            relation: [S, T], how each token stands to the span (`models.spans.relations`).
        """
        mine = states[rows]  # [S, T, D]
        inside = (relation == 1).to(states.dtype)  # [S, T]
        total = inside.sum(dim=1, keepdim=True).clamp(min=1.0)  # [S, 1]
        span = (inside.unsqueeze(1) @ mine).squeeze(1) / total  # [S, D]
        hint = self.span(span).unsqueeze(1) + self.relation(relation)  # [S, T, A]
        pooled, alpha = self.pooling(mine, relation > 0, hint)  # [S, D], [S, T]
        return self.classifier(self.dropout(torch.cat([pooled, span], dim=1))), alpha


def classifier(width: int, labels: int, hidden: int, dropout: float) -> nn.Module:
    """A linear layer, or two with a GELU between where `hidden` is not 0."""
    if not hidden:
        return nn.Linear(width, labels)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, labels))


def build_head(head: HeadLike, width: int, vocabulary: int, dropout: float = 0.0) -> nn.Module:
    """The module of a head of any kind but embedding, over an encoder that knows `vocabulary` tokens."""
    if head.kind == "entity":
        return EntityHead(width, 1 + 2 * len(head.labels), head.attention_width, dropout)
    sizes = (width, len(head.labels), head.attention_width, head.classifier_width, dropout)
    if head.kind == "span":
        return SpanHead(*sizes)
    found = LabelHead(*sizes)
    if head.ngram_rows:
        found.ngrams = Ngrams(head.ngram_rows, len(head.labels), head.ngrams, vocabulary)
    return found


class Network(nn.Module):
    """An encoder of the BERT class under its heads.

    Args:
        encoder: a Hugging Face encoder; called with input_ids and attention_mask.
        heads: of a manifest or a recipe.
        dropout: of the heads, while training.
    """

    def __init__(self, encoder: Any, heads: Sequence[HeadLike] | Sequence[Head], dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.kinds = {head.name: head.kind for head in heads}
        self.layers = {head.name: head.layer or int(encoder.config.num_hidden_layers) for head in heads}
        width, vocabulary = int(encoder.config.hidden_size), int(encoder.config.vocab_size)
        modules = {
            head.name: build_head(head, width, vocabulary, dropout) for head in heads if head.kind != "embedding"
        }
        self.heads = nn.ModuleDict(modules)

    @property
    def of_text(self) -> list[str]:
        """Names of the heads that read whole texts, in order."""
        return [name for name, kind in self.kinds.items() if kind in ("label", "entity")]

    @property
    def of_spans(self) -> list[str]:
        """Names of the heads that read spans, in order."""
        return [name for name, kind in self.kinds.items() if kind == "span"]

    @property
    def embeds(self) -> bool:
        return "embedding" in self.kinds.values()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor, word_shapes: Tensor
    ) -> tuple[Tensor, ...]:
        """All outputs in the order of `output_names`, from inputs [B, T]."""
        layers = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        return self.read(layers, input_ids, attention_mask, word_mask, word_shapes)

    def read(
        self,
        layers: Sequence[Tensor] | Mapping[int, Tensor],
        input_ids: Tensor,
        attention_mask: Tensor,
        word_mask: Tensor,
        word_shapes: Tensor,
    ) -> tuple[Tensor, ...]:
        """What the heads say of the states [B, T, D] of all layers, from the embeddings (0) to the last (-1)."""
        outputs: list[Tensor] = []
        for name in self.of_text:
            states = layers[self.layers[name]]
            if self.kinds[name] == "entity":
                outputs.append(self.heads[name](states, word_shapes))  # [B, T, L]
            else:
                outputs.extend(self.heads[name](states, word_mask, input_ids))  # [B, L], [B, T]
        outputs += [layers[self.layers[name]] for name in self.of_spans]  # [B, T, D]
        if self.embeds:
            outputs.append(sentence_vector(layers[-1], attention_mask))  # [B, D]
        return tuple(outputs)

    def output_names(self) -> list[str]:
        """Names of what `forward` returns, in order.

        `<head>.logits` [B, L] and `<head>.alpha` [B, T] of a label head, `<head>.logits` [B, T, L] of an entity
        head, `<head>.states` [B, T, D] for a span head, `embedding` [B, D].
        """
        names: list[str] = []
        for name in self.of_text:
            names += [f"{name}.logits"] if self.kinds[name] == "entity" else [f"{name}.logits", f"{name}.alpha"]
        return names + [f"{name}.states" for name in self.of_spans] + ([EMBEDDING] if self.embeds else [])


def sentence_vector(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over all tokens but padding, L2-normalised, as in Sentence-BERT (Reimers and Gurevych 2019)."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)  # [B, D]
    return functional.normalize(mean, dim=1)  # [B, D]
