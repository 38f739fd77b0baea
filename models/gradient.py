"""|gradient x input|: how much each token's word embedding moved a label; needs torch. N lines, T tokens, D wide.

Simonyan et al. 2014 and Shrikumar et al. 2017. For each token the gradient of the label's logit with respect to
the word embedding, times that embedding, summed over its D dimensions; n-grams (`models.ngrams`) are linear in
what stands there, so each token's share of them is added as it is. The sign is left out.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundle import Bundle
from models.export import load_network
from models.network import LabelHead, Network
from models.tokens import Batch


class Gradient:
    """`models.explain.Relevance` of a network."""

    def __init__(self, network: Network) -> None:
        self._network = network.eval().requires_grad_(False)
        self._device = next(network.parameters()).device

    @classmethod
    def of(cls, bundle: Bundle) -> "Gradient":
        """That of a bundle's network in fp32.

        Raises:
            BundleError: the bundle's base cannot be had, or does not fit.
        """
        return cls(load_network(bundle))

    def __call__(
        self,
        batch: Batch,
        head: str,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        relation: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """|gradient x input| of each token: [N, T].

        Args:
            rows: [N], the text of each line.
            labels: [N], the number of each line's label.
            relation: [N, T], for a head for spans.
        """
        ids, attention, words = (
            torch.from_numpy(part[rows]).to(self._device)
            for part in (batch.input_ids, batch.attention_mask, batch.word_mask)
        )  # [N, T]
        given, states = self._states(ids, attention, self._network.layers[head])  # [N, T, D]
        reader = self._network.heads[head]
        if isinstance(reader, LabelHead):
            logits, _ = reader.without_ngrams(states, words)  # [N, L]
        else:
            lines = torch.arange(len(rows), device=self._device)
            logits, _ = reader(states, lines, torch.from_numpy(relation).to(self._device))
        chosen = logits.gather(1, torch.from_numpy(labels).to(self._device).unsqueeze(1))  # [N, 1]
        # Lines do not meet in evaluation mode, so the sum's gradient is each line's own.
        (gradient,) = torch.autograd.grad(chosen.sum(), given)  # [N, T, D]
        moved = (gradient * given).sum(dim=-1)  # [N, T]
        if isinstance(reader, LabelHead) and reader.ngrams is not None:
            said = reader.ngrams.shares(ids, words)  # [N, T, L]
            moved = moved + said[torch.arange(len(rows)), :, torch.from_numpy(labels)]
        relevance: NDArray[np.float32] = moved.abs().detach().cpu().numpy()
        return relevance

    def _states(self, ids: Tensor, attention: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The word embeddings, ready for a gradient, and the states of a layer that follow from them."""
        kept: list[Tensor] = []

        def keep(_module: Any, _given: Any, embedded: Tensor) -> Tensor:
            kept.append(embedded.detach().requires_grad_(True))
            return kept[0]

        hook = self._network.encoder.get_input_embeddings().register_forward_hook(keep)
        try:
            with torch.enable_grad():
                layers = self._network.encoder(
                    input_ids=ids, attention_mask=attention, output_hidden_states=True
                ).hidden_states
        finally:
            hook.remove()
        return kept[0], layers[layer]
