"""A linear model of a text's tokens and their pairs, beside a head that pools. B texts, T tokens, L labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

# Places that pairs of neighbours are hashed to; of a hundred pairs that were never seen, fewer than ten meet one
# of the ten thousand that were.
PAIRS = 2**17
_FACTORS = (40_503, 48_271, 2**31 - 1)


class Ngrams(nn.Module):
    """Sum of what each token, and each pair of neighbours, says for each label, over the root of their number.

    A bag of n-grams under a linear model, with pairs hashed (Weinberger et al. 2009). Weights are bytes with one
    scale a label, so that every precision of a bundle holds the same ones.

    Args:
        rows: n-grams that have weights.
        labels: L.
        order: 1 for tokens alone, 2 for pairs of neighbours beside them.
        vocabulary: how many tokens there are.
    """

    places: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, rows: int, labels: int, order: int, vocabulary: int) -> None:
        super().__init__()
        self.order = order
        self.vocabulary = vocabulary
        self.register_buffer("places", torch.zeros(rows, dtype=torch.int32))  # [R]
        self.register_buffer("weight", torch.zeros(rows, labels, dtype=torch.int8))  # [R, L]
        self.register_buffer("scale", torch.zeros(labels))  # [L]
        self.register_buffer("bias", torch.zeros(labels))  # [L]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What is added to the logits [B, L], from token numbers [B, T] and a mask of words [B, T]."""
        words = mask.to(self.scale.dtype)  # [B, T]
        places, counted = ids, words  # [B, N]
        if self.order > 1:
            places = torch.cat([ids, pair_places(ids, self.vocabulary)], dim=1)
            counted = torch.cat([words, words[:, :-1] * words[:, 1:]], dim=1)
        total = (self._weights(places, ids) * counted.unsqueeze(-1)).sum(dim=1)  # [B, L]
        return total / counted.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt() + self.bias

    def shares(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What of `forward`, less its bias, is each token's: its own part and half of its pairs' [B, T, L]."""
        words = mask.to(self.scale.dtype)  # [B, T]
        said = self._weights(ids, ids) * words.unsqueeze(-1)  # [B, T, L]
        count = words.sum(dim=1, keepdim=True)  # [B, 1]
        if self.order > 1:
            both = words[:, :-1] * words[:, 1:]  # [B, T-1]
            halves = self._weights(pair_places(ids, self.vocabulary), ids) * both.unsqueeze(-1) / 2  # [B, T-1, L]
            said = said + functional.pad(halves, (0, 0, 0, 1)) + functional.pad(halves, (0, 0, 1, 0))
            count = count + both.sum(dim=1, keepdim=True)
        return said / count.clamp(min=1.0).sqrt().unsqueeze(-1)

    def _weights(self, places: Tensor, ids: Tensor) -> Tensor:
        """Weights [..., L] of n-grams by place [...], zeros where there are none; `ids` as in `forward`."""
        count = self.vocabulary + (PAIRS if self.order > 1 else 0)
        numbers = torch.arange(1, len(self.places) + 1, dtype=torch.int32, device=self.places.device)
        # Zeros that do not come from an input would be written into the graph's file, one by one.
        nothing = (ids.flatten()[:1] * 0).to(torch.int32).expand(count)
        rows = nothing.scatter(0, self.places.long(), numbers)  # by place, 0 for none
        table = functional.pad(self.weight, (0, 0, 1, 0))  # [1 + R, L]
        return table[rows[places].long()].to(self.scale.dtype) * self.scale


def pair_places(ids: Tensor, vocabulary: int) -> Tensor:
    """The place of each token with its right neighbour, behind those of the tokens: [B, T-1] from [B, T]."""
    first, second, prime = _FACTORS
    mixed = (ids[:, :-1] * first + ids[:, 1:]) * second
    return vocabulary + mixed.remainder(prime).remainder(PAIRS)
