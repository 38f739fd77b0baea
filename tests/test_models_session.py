"""Which processor is in force, and what is said when it is not the one asked for."""

import sys
from pathlib import Path

import pytest

from models import session
from models.bundle import GRAPH, find_bundle
from models.runtime import load_scorer
from models.session import open_session
from schemas.errors import BundleError, ConfigError


class FellBack:
    """An ONNX Runtime that offers CUDA and then runs on the CPU, as it does without a driver."""

    class SessionOptions:
        intra_op_num_threads = 0
        log_severity_level = 0

    def __init__(self, *_: object, providers: list[str] | None = None) -> None:
        self.asked = providers

    InferenceSession = property(lambda self: FellBack)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_auto_and_cpu_open_on_the_cpu() -> None:
    for provider in ("auto", "cpu"):
        assert "CPUExecutionProvider" in open_session(find_bundle("") / GRAPH, provider, 1).get_providers()


def test_cuda_is_refused_when_the_session_fell_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_import", FellBack)
    monkeypatch.setattr(session, "_installed", lambda name: name == "onnxruntime-gpu")
    with pytest.raises(ConfigError, match="fell back to CPUExecutionProvider; check the NVIDIA driver"):
        open_session(Path("model.onnx"), "cuda", 0)
    assert open_session(Path("model.onnx"), "auto", 0).asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("installed", "mend"),
    [
        ({"onnxruntime"}, r"install salience\[gpu\] in place of"),
        ({"onnxruntime", "onnxruntime-gpu"}, "overwrite each other; uninstall both"),
    ],
)
def test_cuda_is_refused_with_the_mend_that_fits_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], mend: str
) -> None:
    monkeypatch.setattr(FellBack, "get_available_providers", lambda self: ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "_import", FellBack)
    monkeypatch.setattr(session, "_installed", installed.__contains__)
    with pytest.raises(ConfigError, match=mend):
        open_session(Path("model.onnx"), "cuda", 0)


def test_without_onnx_runtime_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"salience\[cpu\].*salience\[gpu\]"):
        load_scorer()


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="export the bundle anew"):
        open_session(tmp_path / "model.onnx", "cpu", 1)


@pytest.mark.parametrize(
    ("setting", "value"), [("threads", -1), ("batch_tokens", 0), ("cache_size", -1), ("top_words", -1)]
)
def test_a_setting_out_of_range_is_refused_by_name(setting: str, value: int) -> None:
    with pytest.raises(ConfigError, match=setting):
        load_scorer(**{setting: value})


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        load_scorer(provider="tpu")
