"""What runs a bundle's heads, and the one for networks in torch; `models.session.Graphs` is the other. S spans."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.interpret import Outputs
from models.losses import named_outputs
from models.network import Network
from models.tokens import Batch, feed

INPUTS = ("input_ids", "attention_mask", "word_mask", "word_shapes")


class Runner(Protocol):
    """Gives what heads say, as arrays."""

    def texts(self, batch: Batch) -> Outputs:
        """Outputs of `models.network.Network.output_names`, by name."""

    def spans(self, outputs: Outputs, rows: NDArray[np.int64], relation: NDArray[np.int64]) -> Outputs:
        """`<head>.logits` [S, L] and `<head>.alpha` [S, T] of every span head."""


class NetworkRunner:
    """Runs a network where it is."""

    def __init__(self, network: Network) -> None:
        self._network = network.eval()
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def texts(self, batch: Batch) -> Outputs:
        self._network.eval()
        inputs = [torch.from_numpy(part).to(self._device) for part in feed(batch, INPUTS).values()]
        outputs = named_outputs(self._network, self._network(*inputs))
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    @torch.inference_mode()
    def spans(self, outputs: Outputs, rows: NDArray[np.int64], relation: NDArray[np.int64]) -> Outputs:
        found: dict[str, NDArray[np.float32]] = {}
        where, how = torch.from_numpy(rows).to(self._device), torch.from_numpy(relation).to(self._device)
        for name in self._network.of_spans:
            states = torch.from_numpy(outputs[f"{name}.states"]).to(self._device)
            logits, alpha = self._network.heads[name](states, where, how)
            found |= {f"{name}.logits": logits.cpu().numpy(), f"{name}.alpha": alpha.cpu().numpy()}
        return found
