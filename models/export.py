"""Builds the ONNX file of a bundle from its base and its heads, and writes the bundle once it is right."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.base import base_folder, load_encoder
from models.bundle import (
    CARD,
    GRAPH,
    HEADS,
    METRICS,
    TOKENIZER,
    Bundle,
    Manifest,
    Precision,
    load_bundle,
    write_manifest,
)
from models.graph import write_graph
from models.network import Network
from models.parity import Parity, agreement, graph_outputs, network_outputs, require_parity
from models.probe import PROBES
from models.tokens import TextTokenizer
from schemas.errors import BundleError, UsageError

_LIBRARIES = ("salience", "torch", "transformers", "tokenizers", "onnx", "onnxruntime")


def export(bundle: str, precision: Precision, out: Path) -> Parity:
    """Write the bundle in another precision: the same base, heads, tokenizer, figures and card.

    Args:
        bundle: a bundle's folder, or "" for the packaged one.
        precision: "fp32" or "int8".
        out: the new bundle's folder, which must not exist or be empty.

    Returns:
        How far the new graph agrees with the network.

    Raises:
        BundleError: the bundle or its base is not usable, or the new graph strays too far; nothing is written.
        UsageError: the precision is unknown, or `out` holds files.
    """
    if precision not in ("fp32", "int8"):
        raise UsageError(f"The precision {precision!r} is unknown; use fp32 or int8.")
    require_empty(out)
    source = load_bundle(bundle)
    with TemporaryDirectory() as scratch:
        graph = Path(scratch) / GRAPH
        tokenizer = TextTokenizer(source.path / TOKENIZER, source.manifest.max_length)
        parity = checked_graph(load_network(source), precision, tokenizer, graph)
        made = {**source.manifest.created_from, "bundle": source.identity, "parity": asdict(parity)}
        manifest = msgspec.structs.replace(
            source.manifest, precision=precision, created_from=made, versions=library_versions()
        )
        kept = {name: source.path / name for name in (TOKENIZER, HEADS, METRICS, CARD)}
        assemble(out, manifest, {**kept, GRAPH: graph})
    return parity


def load_network(bundle: Bundle) -> Network:
    """The network of a bundle in fp32: its base, which must be the one pinned, under its heads.

    Raises:
        BundleError: the base is another one, or the heads do not fit the manifest.
    """
    manifest = bundle.manifest
    encoder = load_encoder(base_folder(manifest.base.name, manifest.base.sha256))
    labels = {head.name: len(head.labels) for head in manifest.heads if head.labels}
    network = Network(encoder, labels, manifest.shape)
    try:
        network.heads.load_state_dict(load_file(bundle.path / HEADS))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"The weights in {bundle.path / HEADS} do not fit the heads that the manifest lists: {error}; "
            "train the bundle anew."
        ) from error
    return network.eval()


def checked_graph(
    network: Network,
    precision: Precision,
    tokenizer: TextTokenizer,
    path: Path,
    texts: Sequence[str] = PROBES,
) -> Parity:
    """Write a graph and compare it with its network.

    Raises:
        BundleError: they agree too little.
    """
    write_graph(network, precision, path)
    parity = agreement(network_outputs(network, tokenizer, texts), graph_outputs(path, tokenizer, texts))
    require_parity(parity, precision)
    return parity


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
