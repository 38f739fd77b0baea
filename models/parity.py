"""How far an exported graph agrees with the network it came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle import EMBEDDING, Precision
from models.interpret import Outputs
from models.network import Network
from models.runtime import DEFAULT_BATCH_TOKENS
from models.session import open_session
from models.tokens import Batch, TextTokenizer, feed
from schemas.errors import BundleError

# fp32 differs by rounding only. Of the 32 probes, int8 may lose three labels a head; what goes wrong in
# quantisation (weights per tensor, a saturating processor) costs far more than that.
_LEAST_AGREEMENT = {"fp32": 1.0, "int8": 0.9}
_LEAST_COSINE = {"fp32": 0.9999, "int8": 0.97}


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of a graph with its network over `texts` texts.

    `labels` is the share of equal labels by head, `logits` the largest absolute difference of any logit,
    `cosine` the mean cosine of the sentence vectors, `least_cosine` that of the worst text.
    """

    texts: int
    labels: dict[str, float]
    logits: float
    cosine: float
    least_cosine: float


def network_outputs(network: Network, tokenizer: TextTokenizer, texts: Sequence[str]) -> Outputs:
    """Logits [N, L] of each head and sentence vectors [N, D] of the network, on its device, texts in order."""
    device = next(network.parameters()).device
    network.eval()

    def run(batch: Batch) -> Outputs:
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(part).to(device) for part in feed(batch).values()))
        return dict(zip(network.output_names(), (part.cpu().numpy() for part in outputs), strict=True))

    return _in_order(run, tokenizer, texts)


def graph_outputs(graph: Path, tokenizer: TextTokenizer, texts: Sequence[str]) -> Outputs:
    """Logits [N, L] of each head and sentence vectors [N, D] of an ONNX file on the CPU, texts in order."""
    session = open_session(graph, "cpu", threads=0)
    names = [output.name for output in session.get_outputs()]

    def run(batch: Batch) -> Outputs:
        return dict(zip(names, session.run(names, feed(batch)), strict=True))

    return _in_order(run, tokenizer, texts)


def agreement(expected: Outputs, found: Outputs) -> Parity:
    """Compare two sets of outputs over the same texts, at least one."""
    logits = {name: value for name, value in expected.items() if name != EMBEDDING}
    labels = {
        name.removesuffix(".logits"): float((value.argmax(axis=1) == found[name].argmax(axis=1)).mean())
        for name, value in logits.items()
    }
    largest = max((float(np.abs(value - found[name]).max()) for name, value in logits.items()), default=0.0)
    cosines = (expected[EMBEDDING] * found[EMBEDDING]).sum(axis=1)  # [N]
    return Parity(len(cosines), labels, largest, float(cosines.mean()), float(cosines.min()))


def require_parity(parity: Parity, precision: Precision) -> None:
    """Refuse a graph that strays too far from its network.

    Raises:
        BundleError: a head's labels or the sentence vectors agree too little; says which and how much.
    """
    low = {head: share for head, share in parity.labels.items() if share < _LEAST_AGREEMENT[precision]}
    if not low and parity.cosine >= _LEAST_COSINE[precision]:
        return
    shares = ", ".join(f"{head} {share:.3f}" for head, share in parity.labels.items())
    raise BundleError(
        f"The {precision} graph strays too far from the network it came from over {parity.texts} texts: "
        f"equal labels {shares} (at least {_LEAST_AGREEMENT[precision]}), cosine of the sentence vectors "
        f"{parity.cosine:.4f} (at least {_LEAST_COSINE[precision]}); nothing was written. Export as fp32, "
        "or train again."
    )


def _in_order(run: Callable[[Batch], Outputs], tokenizer: TextTokenizer, texts: Sequence[str]) -> Outputs:
    whole: dict[str, NDArray[np.float32]] = {}
    for batch in tokenizer.batches(texts, DEFAULT_BATCH_TOKENS):
        for name, part in run(batch).items():
            # Attention has another width in each batch, and nothing here asks for it.
            if not name.endswith(".alpha"):
                room = whole.setdefault(name, np.empty((len(texts), part.shape[1]), np.float32))
                room[batch.positions] = part
    return whole
