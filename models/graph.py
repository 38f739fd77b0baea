"""From the network to ONNX files: in fp32, with an encoder of dynamic int8, or in fp16 with fused attention."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.bundle import EMBEDDING, GRAPH, SPAN_GRAPH, Precision
from models.network import Network
from models.rowwise import by_row
from models.runner import INPUTS

OPSET = 18
# The fuser works out no shape of a norm whose axes are an input, as they are from 18 on, and then fuses little.
_FUSIBLE_OPSET = 17


class SpanNetwork(nn.Module):
    """The span heads of a network, as a graph of their own: they read states that the other graph gave."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: network.heads[name] for name in network.of_spans})

    def forward(self, rows: Tensor, relation: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """`<head>.logits` [S, L] and `<head>.alpha` [S, T] a head, from states [B, T, D] of each head in order."""
        outputs: list[Tensor] = []
        for head, mine in zip(self.heads.values(), states, strict=True):
            outputs.extend(head(mine, rows, relation))
        return tuple(outputs)


def write_graphs(network: Network, precision: Precision, folder: Path) -> dict[str, Path]:
    """Write the graph for texts and, where there are span heads, the one for spans; returns them by file name.

    The graph for texts has the inputs `models.runner.INPUTS` [B, T] int64 that its heads read, and the outputs
    `network.output_names()`. The network is moved to the CPU. int8 is dynamic quantisation of the encoder (weights
    and embedding tables per channel, activations per token at run time); heads and spans stay fp32. Weights take
    seven bits, for on processors without VNNI the eighth saturates 16-bit sums; with scales per channel that costs
    nothing. fp16 halves the graph for texts but for its inputs and outputs, with attention fused for CUDA; the
    graph for spans is small and stays fp32.
    """
    network = network.cpu().eval()
    files = {GRAPH: folder / GRAPH}
    if precision == "int8":
        with TemporaryDirectory() as scratch:
            exact = Path(scratch) / "fp32.onnx"
            _trace_texts(network, exact)
            _quantise(exact, files[GRAPH])
    elif precision == "fp16":
        _trace_for_fusion(network, files[GRAPH])
        halve(files[GRAPH], network.encoder.config)
    else:
        _trace_texts(network, files[GRAPH])
    if network.of_spans:
        files[SPAN_GRAPH] = folder / SPAN_GRAPH
        _trace_spans(network, files[SPAN_GRAPH])
    return files


def halve(path: Path, config: Any) -> None:
    """Fuse the attention of a graph and turn it to fp16, in place; inputs and outputs keep their types."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    _divide_by_scale(path)
    with _quiet():
        model = optimizer.optimize_model(
            str(path),
            model_type="bert",
            num_heads=int(config.num_attention_heads),
            hidden_size=int(config.hidden_size),
            optimization_options=FusionOptions("bert"),
            opt_level=0,
        )
        model.convert_float_to_float16(keep_io_types=True)
        model.save_model_to_file(str(path))


class _Fusible(nn.Module):
    """The network with the mask of attention spelled out as the first BERT did, which the fuser looks for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor, word_shapes: Tensor
    ) -> tuple[Tensor, ...]:
        floats = attention_mask.unsqueeze(1).unsqueeze(2).to(torch.float32)  # [B, 1, 1, T]
        # fp16 holds the floor, and exp() of it is exactly 0.
        added = (1.0 - floats) * -1e4  # [B, 1, 1, T]
        layers = self.network.encoder(
            input_ids=input_ids, attention_mask=added, output_hidden_states=True
        ).hidden_states
        # A layer that a head reads beside query, key and value of the next one would not be fused.
        apart = [*(layer + 0.0 for layer in layers[:-1]), layers[-1]]
        return self.network.read(apart, input_ids, attention_mask, word_mask, word_shapes)


def _trace_for_fusion(network: Network, path: Path) -> None:
    """As `_trace_texts`, by the exporter whose graphs the fuser knows."""
    tokens = torch.tensor([[1, 2, 3, 1], [1, 2, 1, 0]])  # [2, 4]
    attention = (tokens > 0).long()  # [2, 4]
    words = (tokens > 1).long()  # [2, 4]
    names = network.output_names()
    axes = {
        name: {0: "batch"} | ({} if _is_pooled(network, name) else {1: "tokens"}) for name in (*INPUTS, *names)
    }
    with _quiet():
        torch.onnx.export(
            _Fusible(network),
            (tokens, attention, words, words.clone()),
            str(path),
            input_names=list(INPUTS),
            output_names=names,
            dynamic_axes=axes,
            opset_version=_FUSIBLE_OPSET,
            dynamo=False,
        )
    _drop_unread(path)


def _divide_by_scale(path: Path) -> None:
    """Where attention multiplies by its scale, divide by the inverse: the fuser takes a product for the mask's."""
    model = onnx.load(path)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    masked = {node.input[0] for node in graph.node if node.op_type == "Softmax"}
    scores = {
        name for node in graph.node if node.op_type == "Add" and masked & set(node.output) for name in node.input
    }
    for node in graph.node:
        first, last = (makers.get(name) for name in node.input[:2]) if len(node.input) == 2 else (None, None)
        if node.op_type != "Mul" or node.output[0] not in scores or first is None or last is None:
            continue
        if first.op_type == "MatMul" and last.op_type == "Constant":
            scale = numpy_helper.to_array(last.attribute[0].t)
            name = f"{node.name}.inverse"
            graph.initializer.append(numpy_helper.from_array(np.asarray(1 / scale, np.float32), name))
            node.op_type = "Div"
            node.input[1] = name
    onnx.save(model, path)


def _is_pooled(network: Network, output: str) -> bool:
    """Whether an output is of whole texts, without an axis of tokens."""
    head, _, part = output.rpartition(".")
    return output == EMBEDDING or (part == "logits" and network.kinds[head] == "label")


def _trace_texts(network: Network, path: Path) -> None:
    tokens = torch.tensor([[1, 2, 3, 1], [1, 2, 1, 0]])  # [2, 4]
    attention = (tokens > 0).long()  # [2, 4]
    words = (tokens > 1).long()  # [2, 4]
    longest = int(network.encoder.config.max_position_embeddings)
    sizes = {0: torch.export.Dim("batch", min=1, max=65_536), 1: torch.export.Dim("tokens", min=2, max=longest)}
    # The exporter takes one tensor given twice for one input.
    _trace(network, (tokens, attention, words, words.clone()), INPUTS, (sizes,) * 4, network.output_names(), path)


def _trace_spans(network: Network, path: Path) -> None:
    width = int(network.encoder.config.hidden_size)
    longest = int(network.encoder.config.max_position_embeddings)
    batch, tokens = torch.export.Dim("batch", min=1, max=65_536), torch.export.Dim("tokens", min=2, max=longest)
    spans = torch.export.Dim("spans", min=1, max=1_048_576)
    relation = torch.tensor([[0, 1, 2, 0, 0], [0, 3, 1, 4, 0], [0, 1, 1, 5, 0]])  # [3, 5]
    states = [torch.randn(2, 5, width) for _ in network.of_spans]
    names = [f"{name}.{part}" for name in network.of_spans for part in ("logits", "alpha")]
    shapes = ({0: spans}, {0: spans, 1: tokens}, tuple({0: batch, 1: tokens} for _ in states))
    inputs = ("rows", "relation", *(f"{name}.states" for name in network.of_spans))
    _trace(SpanNetwork(network).eval(), (torch.tensor([0, 1, 1]), relation, *states), inputs, shapes, names, path)


def _trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    shapes: Any,
    names: list[str],
    path: Path,
) -> None:
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            example,
            input_names=list(inputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    _name_outputs(program.model.graph, names)
    program.save(path)
    _drop_unread(path)


def _drop_unread(path: Path) -> None:
    """Take out inputs that no head reads, so that nobody works them out."""
    model = onnx.load(path)
    read = {name for node in model.graph.node for name in node.input}
    unread = [each for each in model.graph.input if each.name not in read]
    for each in unread:
        model.graph.input.remove(each)
    if unread:
        onnx.save(model, path)


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
