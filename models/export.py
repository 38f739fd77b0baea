"""Builds the ONNX files of a bundle from its base and its heads, and writes the bundle once it is right."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from models.base import base_folder, load_encoder
from models.bundle import (
    ADAPTERS,
    ENCODER,
    GRAPH,
    HEADS,
    PRECISIONS,
    SPAN_GRAPH,
    TOKENIZER,
    Bundle,
    Head,
    Manifest,
    Precision,
    Tuned,
    load_bundle,
    write_manifest,
)
from models.graph import write_graphs
from models.graphs import Graphs
from models.network import Network
from models.parity import Parity, agreement, joined, outputs_of, require_parity
from models.probe import PROBES, QUESTIONS
from models.runner import NetworkRunner
from models.tokens import TextTokenizer
from models.tune import adapters, changed, load_adapters
from schemas.errors import BundleError, UsageError

_LIBRARIES = ("salience", "torch", "transformers", "peft", "tokenizers", "onnx", "onnxruntime")


def export(bundle: str, precision: Precision, out: Path) -> Parity:
    """Write the bundle in another precision: the same base, weights, tokenizer, figures and card.

    Args:
        bundle: a bundle's folder, or "" for the packaged one.
        precision: "fp32", "fp16" or "int8".
        out: the new bundle's folder, which must not exist or be empty.

    Returns:
        How far the new graphs agree with the network.

    Raises:
        BundleError: the bundle or its base is not usable, or the new graphs stray too far; nothing is written.
        UsageError: the precision is unknown, or `out` holds files.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"The precision {precision!r} is unknown; use {', '.join(PRECISIONS)}.")
    require_empty(out)
    source = load_bundle(bundle)
    with TemporaryDirectory() as scratch:
        tokenizer = TextTokenizer(source.path / TOKENIZER, source.manifest.max_length)
        network = load_network(source)
        graphs, parity = checked_graphs(network, source.manifest.heads, precision, tokenizer, Path(scratch))
        made = {**source.manifest.created_from, "bundle": source.identity, "parity": asdict(parity)}
        manifest = msgspec.structs.replace(
            source.manifest, precision=precision, created_from=made, versions=library_versions()
        )
        kept = {name: source.path / name for name in source.manifest.files if name not in (GRAPH, SPAN_GRAPH)}
        assemble(out, manifest, {**kept, **graphs})
    return parity


def load_network(bundle: Bundle) -> Network:
    """The network of a bundle in fp32: its base, which must be the one pinned, as it was tuned, under its heads.

    Raises:
        BundleError: the base is another one, or the weights do not fit the manifest.
    """
    manifest = bundle.manifest
    encoder = load_encoder(base_folder(manifest.base.name, manifest.base.sha256))
    try:
        if manifest.tuned.tuning == "lora":
            encoder = load_adapters(encoder, manifest.tuned, bundle.path / ADAPTERS)
        elif manifest.tuned.tuning == "full":
            changed = encoder.load_state_dict(_floats(bundle.path / ENCODER), strict=False)
            if changed.unexpected_keys:
                raise RuntimeError(f"{changed.unexpected_keys[0]} is no weight of the base")
        network = Network(encoder, manifest.heads)
        network.heads.load_state_dict(_floats(bundle.path / HEADS))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"The weights in {bundle.path} do not fit what the manifest says of encoder and heads: {error}; "
            "train the bundle anew."
        ) from error
    return network.eval()


def heads_of(network: Network) -> bytes:
    """The file of the heads' weights, in half precision."""
    written: bytes = save(_halves(network.heads.state_dict()))
    return written


def encoder_weights(network: Network, tuned: Tuned) -> dict[str, bytes]:
    """The file of what the encoder learned, in half precision, by its name; none where it is frozen."""
    if tuned.tuning == "lora":
        return {ADAPTERS: save(_halves(adapters(network.encoder)))}
    return {ENCODER: save(_halves(changed(network.encoder, tuned)))} if tuned.tuning == "full" else {}


def checked_graphs(
    network: Network, heads: Sequence[Head], precision: Precision, tokenizer: TextTokenizer, folder: Path
) -> tuple[dict[str, Path], Parity]:
    """Write the graphs, by file name, and compare them with their network over texts of our own.

    Raises:
        BundleError: they agree too little.
    """
    files = write_graphs(network, precision, folder)
    runners = (NetworkRunner(network), Graphs(files[GRAPH], files.get(SPAN_GRAPH), "cpu", threads=0))

    def compared(texts: Sequence[str]) -> Parity:
        exact, found = (outputs_of(runner, network, tokenizer, texts) for runner in runners)
        return agreement(exact, found, len(texts))

    chat_heads = [head.name for head in heads if head.streams == ("chat",)]
    parity = joined(compared(PROBES), compared(QUESTIONS), chat_heads)
    require_parity(parity, precision, network.of_spans)
    return files, parity


def assemble(out: Path, manifest: Manifest, parts: Mapping[str, Path | bytes]) -> None:
    """Write a bundle's files beside `out`, seal them with the manifest, and move the whole into place.

    Raises:
        UsageError: `out` holds files.
    """
    require_empty(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        for name, part in parts.items():
            if isinstance(part, Path):
                shutil.copyfile(part, folder / name)
            else:
                (folder / name).write_bytes(part)
        write_manifest(folder, manifest)
        if out.exists():
            out.rmdir()
        folder.rename(out)


def require_empty(out: Path) -> None:
    """Refuse to write a bundle over files.

    Raises:
        UsageError: `out` is a file, or a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty; name another folder for the bundle, or remove it.")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a bundle's figures depend on."""
    return {name: version(name) for name in _LIBRARIES}


def _halves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the CPU, those that are floating point in half precision."""
    return {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in weights.items()
    }


def _floats(path: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}
