"""From the network to an ONNX file, in fp32 or with an encoder of dynamic int8."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch

from models.bundle import Precision
from models.network import Network
from models.rowwise import by_row

OPSET = 18
INPUTS = ("input_ids", "attention_mask", "word_mask")


def write_graph(network: Network, precision: Precision, path: Path) -> None:
    """Write one graph: inputs `INPUTS` [B, T] int64, outputs `network.output_names()`.

    The network is moved to the CPU. int8 is dynamic quantisation of the encoder (weights and embedding tables
    per channel, activations per token at run time); the heads stay fp32. Weights take seven bits, for on
    processors without VNNI the eighth saturates 16-bit sums; with scales per channel that costs nothing.
    """
    if precision == "fp32":
        _trace(network, path)
        return
    with TemporaryDirectory() as scratch:
        exact = Path(scratch) / "fp32.onnx"
        _trace(network, exact)
        _quantise(exact, path)


def _trace(network: Network, path: Path) -> None:
    network = network.cpu().eval()
    tokens = torch.tensor([[1, 2, 3, 1], [1, 2, 1, 0]])  # [2, 4]
    attention = (tokens > 0).long()  # [2, 4]
    words = (tokens > 1).long()  # [2, 4]
    longest = int(network.encoder.config.max_position_embeddings)
    sizes = {0: torch.export.Dim("batch", min=1, max=65_536), 1: torch.export.Dim("tokens", min=2, max=longest)}
    with _quiet():
        program: Any = torch.onnx.export(
            network,
            (tokens, attention, words),
            input_names=list(INPUTS),
            dynamic_shapes=(sizes, sizes, sizes),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    _name_outputs(program.model.graph, network.output_names())
    program.save(path)


def _name_outputs(graph: Any, names: list[str]) -> None:
    """Name the outputs after the exporter has named its own values, of which one is called `embedding` too."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}.inner"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _quantise(exact: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(exact)
    # The exporter's shape notes contradict those that the quantiser infers again, and it refuses them.
    del model.graph.value_info[:]
    onnx.save(model, exact)
    kept = [node for node in model.graph.node if not _in_encoder(node)]
    with _quiet():
        quantize_dynamic(
            exact,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            # The quantiser first splits Gemm into MatMul and Add under a new name, and only then reads this list.
            nodes_to_exclude=[name for node in kept for name in (node.name, f"{node.name}_MatMul")],
        )
    onnx.save(by_row(onnx.load(path)), path)


def _in_encoder(node: Any) -> bool:
    scopes = next((note.value for note in node.metadata_props if note.key.endswith("name_scopes")), "")
    return "'encoder" in scopes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks (deprecations of their own, packages they would like) from the user."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
