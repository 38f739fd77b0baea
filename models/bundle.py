"""A bundle: the folder that holds one model, what it was made from, and the hash of each of its files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from models.scorer import Countable
from models.text import require_known
from schemas.errors import BundleError

FORMAT = 2
PACKAGED = "market-minilm"
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPH = "model.onnx"
SPAN_GRAPH = "spans.onnx"
HEADS = "heads.safetensors"
ADAPTERS = "adapters.safetensors"
ENCODER = "encoder.safetensors"
RECIPE = "recipe.json"
METRICS = "metrics.json"
CARD = "README.md"
TRAINED = "trained.npy"
NOTICE = "NOTICE"
FILES = (TOKENIZER, GRAPH, HEADS, RECIPE, METRICS, TRAINED, CARD)
EMBEDDING = "embedding"

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Kind = Literal["label", "entity", "span", "embedding"]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """One head: what it answers, for which streams, its layers, and what calibration found.

    `label` names one label of a text, `entity` finds spans of the types `labels`, `span` names one label of each
    span that the head `spans` found, and `embedding` is the sentence vector. Probabilities are
    softmax(logits / temperature). An answer less probable than `unsure_below` is none to act on; a text whose
    familiarity (`models.interpret.familiarity`) is below `none_below` is none of the labels. `confusion` counts
    calibration texts, [true label][found label], answers that are unsure included. `ngram_rows` tokens, and with
    `ngrams` = 2 pairs of them, have weights of their own (`models.ngrams`).
    """

    name: str
    kind: Kind
    streams: tuple[str, ...]
    labels: tuple[str, ...] = ()
    spans: str = ""
    layer: int = 0
    attention_width: int = 0
    classifier_width: int = 0
    ngrams: int = 0
    ngram_rows: int = 0
    temperature: float = 1.0
    unsure_below: float = 0.0
    none_below: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()

    @property
    def bank(self) -> str:
        """Name of the file with the bank of vectors, where the head has one."""
        return f"{self.name}.bank.npy"

    @property
    def tags(self) -> tuple[str, ...]:
        """BIO tags of an entity head, in the order of its logits."""
        return ("O", *(f"{mark}-{label}" for label in self.labels for mark in "BI"))


class Base(msgspec.Struct, frozen=True):
    """The encoder under the heads: hub name or folder, and the sha256 of its model.safetensors."""

    name: str
    sha256: str


class Tuned(msgspec.Struct, frozen=True):
    """How the encoder departs from its base: not at all, by adapters, or in full."""

    tuning: Literal["frozen", "lora", "full"] = "frozen"
    rank: int = 0
    alpha: float = 0.0
    layers: tuple[int, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `manifest.json` says. `files` maps each file of the folder to its sha256."""

    format: int = FORMAT
    name: str
    heads: tuple[Head, ...]
    base: Base
    tuned: Tuned = Tuned()
    precision: Precision
    max_length: int
    normalisation: tuple[str, ...]
    languages: tuple[str, ...] = ("en",)
    created_from: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = {}

    @property
    def required(self) -> tuple[str, ...]:
        """Files without which the bundle is not whole."""
        spans = (SPAN_GRAPH,) if any(head.kind == "span" for head in self.heads) else ()
        banks = tuple(head.bank for head in self.heads if head.none_below is not None)
        weights = {"frozen": (), "lora": (ADAPTERS,), "full": (ENCODER,)}[self.tuned.tuning]
        return (*FILES, *spans, *banks, *weights)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and found whole."""

    path: Path
    manifest: Manifest
    identity: str

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        """Labels of each head that answers for a stream's texts, in head order; of an entity head its types."""
        return {
            head.name: head.labels
            for head in self.manifest.heads
            if head.kind in ("label", "entity") and stream in head.streams
        }

    def countable(self, stream: str) -> dict[str, Countable]:
        """Heads that name one label of a text or of an entity, with what they confuse."""
        return {
            head.name: Countable(head.labels, head.confusion)
            for head in self.manifest.heads
            if head.kind in ("label", "span") and stream in head.streams
        }

    def answering(self, stream: str) -> tuple[str, ...]:
        """Names of all heads of a stream, those for spans and the embedding included."""
        return tuple(head.name for head in self.manifest.heads if stream in head.streams)

    def head(self, name: str) -> Head:
        """A head by its name."""
        return next(head for head in self.manifest.heads if head.name == name)

    @property
    def embedding(self) -> str:
        """Decides whether two sentence vectors can be compared: the encoder, not the heads or the precision."""
        files = self.manifest.files
        parts = (self.manifest.base.sha256, files.get(ADAPTERS, ""), files.get(ENCODER, ""))
        return hashlib.sha256(" ".join((*parts, *self.manifest.normalisation)).encode()).hexdigest()[:12]

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
            "`salience model train` or `salience model export` wrote, or leave the setting empty "
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
    for name in {**dict.fromkeys(manifest.required), **manifest.files}:
        _check_file(path / name, manifest.files.get(name))
    return Bundle(path, manifest, f"{manifest.name}@{hashlib.sha256(raw).hexdigest()[:12]}")


def info(bundle: str = "") -> dict[str, Any]:
    """What there is to know of a bundle, as plain JSON-ready values; reads files only, runs no model.

    Raises:
        BundleError: as `load_bundle`.
    """
    loaded = load_bundle(bundle)
    facts: dict[str, Any] = msgspec.to_builtins(loaded.manifest)
    sizes = {name: (loaded.path / name).stat().st_size for name in (*loaded.manifest.files, MANIFEST)}
    metrics = msgspec.json.decode((loaded.path / METRICS).read_bytes())
    return {
        "identity": loaded.identity,
        "path": str(loaded.path),
        "bytes": sum(sizes.values()),
        **facts,
        "metrics": metrics,
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Hash the files of the folder and write the manifest that seals them."""
    files = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    sealed = msgspec.structs.replace(manifest, files={name: sha256(folder / name) for name in files})
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
