"""How far a batch's answers are from its targets: a loss a head, texts weighing the same. B texts, T tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bundle import EMBEDDING
from models.network import Network
from models.recipe import Recipe
from models.spans import relations
from models.targets import IGNORED, Target
from models.tokens import Batch

# Added to chances before a logarithm is taken.
_SMALLEST = 1e-9


class Losses:
    """The losses of a recipe.

    Args:
        recipe: weights of the heads and label smoothing.
        counts: how often each label stands in the training texts, by head.
        device: where the network is.
    """

    def __init__(self, recipe: Recipe, counts: Mapping[str, Sequence[int]], device: torch.device) -> None:
        self._recipe = recipe
        self._device = device
        self._smoothing = recipe.training.label_smoothing
        self._weights = {
            name: label_weights(each, recipe.head(name).class_weight).to(device) for name, each in counts.items()
        }

    def __call__(
        self,
        network: Network,
        outputs: Mapping[str, Tensor],
        batch: Batch,
        targets: Sequence[Target],
        vectors: Tensor | None,
    ) -> dict[str, Tensor]:
        """Each head's loss, summed over its texts and divided by all texts of the batch.

        Args:
            outputs: of the network, by name.
            targets: of the batch's texts, in its order.
            vectors: sentence vectors [B, D] of the untouched base, where the recipe has an embedding.
        """
        found: dict[str, Tensor] = {}
        for head in self._recipe.heads:
            if head.kind == "label":
                loss = self._label(head.name, outputs[f"{head.name}.logits"], targets)
            elif head.kind == "entity":
                loss = self._entity(head.name, outputs[f"{head.name}.logits"], targets)
            elif head.kind == "span":
                loss = self._span(head.name, network, outputs[f"{head.name}.states"], batch, targets)
            else:
                loss = None if vectors is None else (1.0 - (outputs[EMBEDDING] * vectors).sum(dim=1)).sum()
            if loss is not None:
                found[head.name] = head.weight * loss / len(targets)
        return found

    def apart(
        self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """How far two readings of one batch differ, by head of kind label: mean of the two Kullback-Leibler
        divergences, summed over the head's texts and divided by all texts of the batch.
        """
        found: dict[str, Tensor] = {}
        for head in self._recipe.heads:
            rows = [row for row, each in enumerate(targets) if head.kind == "label" and head.name in each.labels]
            if rows:
                name = f"{head.name}.logits"
                found[head.name] = head.weight * disagreement(first[name][rows], second[name][rows]) / len(targets)
        return found

    def _label(self, name: str, logits: Tensor, targets: Sequence[Target]) -> Tensor | None:
        rows = [row for row, each in enumerate(targets) if name in each.labels]
        if not rows:
            return None
        wanted = torch.tensor([targets[row].labels[name] for row in rows], device=self._device)
        return self._cross_entropy(name, logits[rows], wanted).sum()

    def _cross_entropy(self, name: str, logits: Tensor, wanted: Tensor) -> Tensor:
        """[N], of logits [N, L]; weighed by label, on average by 1."""
        loss = functional.cross_entropy(logits, wanted, reduction="none", label_smoothing=self._smoothing)
        return loss * self._weights[name][wanted]

    def _entity(self, name: str, logits: Tensor, targets: Sequence[Target]) -> Tensor | None:
        rows = [row for row, each in enumerate(targets) if each.tagging == name]
        if not rows:
            return None
        tags = torch.full(logits.shape[:2], IGNORED)
        open_tags = np.zeros((len(targets), logits.shape[2]), np.float32)
        for row in rows:
            mine = targets[row].tags
            assert mine is not None
            tags[row, : len(mine)] = torch.from_numpy(mine)
            open_tags[row] = targets[row].open_tags
        return tag_loss(
            logits[rows], tags[rows].to(self._device), torch.from_numpy(open_tags[rows]).to(self._device)
        )

    def _span(
        self, name: str, network: Network, states: Tensor, batch: Batch, targets: Sequence[Target]
    ) -> Tensor | None:
        asked = [(row, span) for row, each in enumerate(targets) if each.judging == name for span in each.spans]
        if not asked:
            return None
        rows = [row for row, _ in asked]
        relation = relations(batch.word_numbers, rows, [span[:2] for _, span in asked])
        wanted = torch.tensor([span[2] for _, span in asked], device=self._device)
        where = torch.tensor(rows, device=self._device)
        logits, _ = network.heads[name](states, where, torch.from_numpy(relation).to(self._device))
        share = 1.0 / torch.bincount(where, minlength=len(targets)).clamp(min=1)[where]
        return (self._cross_entropy(name, logits, wanted) * share).sum()


def tag_loss(logits: Tensor, tags: Tensor, open_tags: Tensor) -> Tensor:
    """Sum over texts of the mean cross-entropy of their tags.

    A word tagged O may be of any type that nobody marked in its text: the chances of those tags count with O.

    Args:
        logits: [N, T, L].
        tags: [N, T], `IGNORED` where no word begins; 0 is O.
        open_tags: [N, L], 1 for O and the tags that were not marked.
    """
    chances = torch.softmax(logits, dim=2)  # [N, T, L]
    counted = tags != IGNORED  # [N, T]
    exact = chances.gather(2, tags.clamp(min=0).unsqueeze(2)).squeeze(2)  # [N, T]
    outside = (chances * open_tags.unsqueeze(1)).sum(dim=2)  # [N, T]
    right = torch.where(tags == 0, outside, exact)
    losses = -torch.log(right + _SMALLEST) * counted
    return (losses.sum(dim=1) / counted.sum(dim=1).clamp(min=1)).sum()


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Sum over texts of the mean of both Kullback-Leibler divergences, in nats, of logits [N, L] and [N, L]."""
    one, other = (functional.log_softmax(each, dim=1) for each in (first, second))
    return ((one.exp() - other.exp()) * (one - other)).sum() / 2


def label_weights(counts: Sequence[int], power: float) -> Tensor:
    """Weight of each label [L], on average 1 over the texts; a label without texts weighs as one with one."""
    numbers = torch.tensor(counts).clamp(min=1).float()  # [L]
    weights = (numbers.mean() / numbers) ** power
    return weights * numbers.sum() / (weights * numbers).sum()


def named_outputs(network: Network, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """A network's outputs by name."""
    return dict(zip(network.output_names(), outputs, strict=True))


def cross_entropy(logits: Tensor, labels: Sequence[int]) -> float:
    """Mean over texts of -log p(true label), natural logarithm."""
    return float(nn.functional.cross_entropy(logits, torch.tensor(labels)))
