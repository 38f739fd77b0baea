"""Opens an ONNX file on the processor that was asked for, and makes sure that it is in force."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from schemas.errors import BundleError, ConfigError

Provider = Literal["auto", "cpu", "cuda"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_ERRORS_ONLY = 3


def open_session(path: Path, provider: str, threads: int) -> Any:
    """Open a graph with ONNX Runtime.

    Args:
        path: the ONNX file.
        provider: "cpu", "cuda", or "auto" for cuda where it works and cpu elsewhere.
        threads: threads of one inference on the CPU, 0 for the library's default.

    Raises:
        ConfigError: ONNX Runtime is not installed, or cuda was asked for and is not in force.
        BundleError: the file is no ONNX graph.
    """
    if provider not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"The provider {provider!r} is unknown; use auto, cpu or cuda.")
    library = _import()
    offered = library.get_available_providers()
    if provider == "cuda" and _CUDA not in offered:
        raise ConfigError(_no_cuda(f"this ONNX Runtime offers only {', '.join(offered)}"))
    wanted = [_CUDA, _CPU] if provider != "cpu" and _CUDA in offered else [_CPU]
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    # ONNX Runtime writes warnings to stderr by itself, where they would spoil JSON logs.
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = library.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # the library raises one class per status code, with no common base
        raise BundleError(f"ONNX Runtime cannot open {path}: {error}; export the bundle anew.") from error
    in_force = session.get_providers()
    if provider == "cuda" and _CUDA not in in_force:
        raise ConfigError(_no_cuda(f"ONNX Runtime fell back to {', '.join(in_force)}"))
    return session


def _import() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "ONNX Runtime is not installed, and no model runs without it; install salience[cpu], "
            "or salience[gpu] on a machine with an NVIDIA GPU."
        ) from error


def _no_cuda(found: str) -> str:
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        return (
            f"The provider cuda was asked for, but {found}: onnxruntime and onnxruntime-gpu are both "
            "installed and overwrite each other; uninstall both, then install salience[gpu] alone."
        )
    if not _installed("onnxruntime-gpu"):
        return f"The provider cuda was asked for, but {found}; install salience[gpu] in place of salience[cpu]."
    return (
        f"The provider cuda was asked for, but {found}; check the NVIDIA driver and the CUDA libraries, "
        "or use the provider auto or cpu."
    )


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False
