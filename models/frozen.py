"""States of an encoder that does not learn, computed once for all epochs. B texts, T tokens, D wide."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.corpus import Corpus, Positions, gather
from models.network import Network
from models.tokens import TextTokenizer


class FrozenStates:
    """The token states that a network's heads read of a corpus, in half precision on the CPU."""

    def __init__(self, network: Network, corpus: Corpus, tokenizer: TextTokenizer) -> None:
        self._last = int(network.encoder.config.num_hidden_layers)
        self._layers = sorted({*network.layers.values(), self._last})
        self._states: list[list[Tensor]] = [[] for _ in corpus.texts]
        self._device = next(network.parameters()).device
        network.encoder.eval()
        with torch.inference_mode():
            for positions in corpus.by_length():
                _, (ids, attention, _, _) = gather(corpus, positions, tokenizer, self._device)
                found = network.encoder(
                    input_ids=ids, attention_mask=attention, output_hidden_states=True
                ).hidden_states
                for row, position in enumerate(positions.tolist()):
                    length = int(corpus.lengths[position])
                    self._states[position] = [
                        found[layer][row, :length].to("cpu", torch.float16, copy=True) for layer in self._layers
                    ]

    def layers(self, positions: Positions) -> dict[int, Tensor]:
        """States [B, T, D] by layer, padded with zeros; -1 is the last one."""
        chosen = [self._states[position] for position in np.asarray(positions).tolist()]
        found = {
            layer: pad_sequence([each[place] for each in chosen], batch_first=True).float().to(self._device)
            for place, layer in enumerate(self._layers)
        }
        return {**found, -1: found[self._last]}
