"""A bundle: the folder that holds one model, what it was made from, and the hash of each of its files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from models.text import require_known
from schemas.errors import BundleError

FORMAT = 1
PACKAGED = "market-minilm"
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPH = "model.onnx"
HEADS = "heads.safetensors"
METRICS = "metrics.json"
CARD = "README.md"
FILES = (TOKENIZER, GRAPH, HEADS, METRICS, CARD)
EMBEDDING = "embedding"

Precision = Literal["fp32", "int8"]


class Head(msgspec.Struct, frozen=True):
    """One head: its labels in the order of its logits, the streams it applies to, and its temperature.

    The head named `embedding` has no labels. Probabilities are softmax(logits / temperature).
    """

    name: str
    streams: tuple[str, ...]
    labels: tuple[str, ...] = ()
    temperature: float = 1.0


class Base(msgspec.Struct, frozen=True):
    """The encoder under the heads: hub name or folder, and the sha256 of its model.safetensors."""

    name: str
    sha256: str


class HeadShape(msgspec.Struct, frozen=True):
    """What every classification head looks like, so that its weights can be read again.

    `layer` is the encoder layer (from 1, 0 being the word embeddings) whose token states the heads read;
    the widths are those of the hidden layers that judge a token and that classify the pooled vector.
    """

    layer: int
    attention_width: int
    classifier_width: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `manifest.json` says. `files` maps each file of the folder to its sha256."""

    format: int = FORMAT
    name: str
    heads: tuple[Head, ...]
    base: Base
    precision: Precision
    max_length: int
    normalisation: tuple[str, ...]
    shape: HeadShape
    created_from: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and found whole."""

    path: Path
    manifest: Manifest
    identity: str

    def heads(self, stream: str) -> tuple[str, ...]:
        """Names of the classification heads that apply to a stream."""
        return tuple(h.name for h in self.manifest.heads if h.labels and stream in h.streams)

    def embeds(self, stream: str) -> bool:
        """Whether texts of this stream get a sentence vector."""
        return any(h.name == EMBEDDING and stream in h.streams for h in self.manifest.heads)


def find_bundle(bundle: str) -> Path:
    """The folder of a bundle; the empty string is the one that comes with Salience.

    Raises:
        BundleError: there is no such folder, or no manifest in it.
    """
    path = Path(bundle) if bundle else Path(__file__).parent / "bundled" / PACKAGED
    if not (path / MANIFEST).is_file():
        raise BundleError(
            f"There is no model bundle at {path} (looked for {MANIFEST}); give the folder that "
            "`python -m models.train` or `salience model export` wrote, or leave the setting empty "
            "for the bundle that comes with Salience."
        )
    return path


def load_bundle(bundle: str = "") -> Bundle:
    """Read a bundle and check every file of it against its manifest.

    Args:
        bundle: a folder, or the empty string for the packaged bundle.

    Raises:
        BundleError: a file is missing or altered, or the bundle is of another format.
    """
    path = find_bundle(bundle)
    raw = (path / MANIFEST).read_bytes()
    manifest = _parse(raw, path / MANIFEST)
    require_known(manifest.normalisation, str(path / MANIFEST))
    for name in FILES:
        _check_file(path / name, manifest.files.get(name))
    return Bundle(path, manifest, f"{manifest.name}@{hashlib.sha256(raw).hexdigest()[:12]}")


def info(bundle: str = "") -> dict[str, Any]:
    """What there is to know of a bundle, as plain JSON-ready values; reads files only, runs no model.

    Raises:
        BundleError: as `load_bundle`.
    """
    loaded = load_bundle(bundle)
    facts: dict[str, Any] = msgspec.to_builtins(loaded.manifest)
    sizes = {name: (loaded.path / name).stat().st_size for name in (*FILES, MANIFEST)}
    metrics = msgspec.json.decode((loaded.path / METRICS).read_bytes())
    return {
        "identity": loaded.identity,
        "path": str(loaded.path),
        "bytes": sum(sizes.values()),
        **facts,
        "metrics": metrics,
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Hash the bundle's files, which must all be there, and write the manifest that seals them."""
    sealed = msgspec.structs.replace(manifest, files={name: sha256(folder / name) for name in FILES})
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(raw: bytes, where: Path) -> Manifest:
    try:
        found = msgspec.json.decode(raw)
        version = found.get("format") if isinstance(found, dict) else None
        if version != FORMAT:
            raise BundleError(
                f"{where} is of bundle format {version!r}, and this version of Salience reads format "
                f"{FORMAT}; export the bundle anew, or use the version of Salience that made it."
            )
        return msgspec.convert(found, Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{where} is no bundle manifest: {error}; export the bundle anew.") from error


def _check_file(path: Path, expected: str | None) -> None:
    if expected is None or not path.is_file():
        missing = "is not listed in the manifest" if path.is_file() else "is missing"
        raise BundleError(f"The bundle file {path} {missing}; copy the bundle again, all files of it.")
    found = sha256(path)
    if found != expected:
        raise BundleError(
            f"The bundle file {path} was altered: its sha256 begins {found[:12]}, the manifest expects "
            f"{expected[:12]}; copy the bundle again, or export it anew if the change was meant."
        )
