"""Exported graphs against the network they come from, on the packaged base."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
onnx = pytest.importorskip("onnx", reason="needs onnx: install salience[train]")

from models import export as exporting  # noqa: E402 (needs torch)
from models.base import base_folder  # noqa: E402
from models.bundle import GRAPH, HEADS, TOKENIZER, find_bundle, load_bundle, write_manifest  # noqa: E402
from models.export import export, load_network  # noqa: E402
from models.graph import INPUTS  # noqa: E402
from models.network import Network  # noqa: E402
from models.parity import Parity, require_parity  # noqa: E402
from models.probe import PROBES  # noqa: E402
from models.session import open_session  # noqa: E402
from models.tokens import TextTokenizer  # noqa: E402
from schemas.errors import BundleError, UsageError  # noqa: E402

pytestmark = pytest.mark.train
# int8 by the mean over a batch: cosine of the sentence vectors, and the share of a head's attention that moved.
LEAST_COSINE = 0.97
MOST_MOVED = 0.15
SHAPES = [(batch, length) for batch in (1, 7, 32) for length in (3, 16, 128)]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield load_network(load_bundle())
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged bundle, exported in fp32."""
    out = tmp_path_factory.mktemp("exact") / "fp32"
    export("", "fp32", out)
    return out


def drawn(batch: int, length: int) -> dict[str, Any]:
    """Stretches of real text of 3 to `length` tokens; in a batch of several, the last has no words."""
    generator = np.random.default_rng(batch * 1_000 + length)
    running = (
        TextTokenizer(find_bundle("") / TOKENIZER, 512).batches([" ".join(PROBES)], 512)[0].input_ids[0, 1:-1]
    )
    starts = generator.integers(0, len(running) - length, (batch, 1))
    sizes = generator.integers(3, length + 1, (batch, 1))
    places = np.arange(length)
    ids = np.select([places == 0, places == sizes - 1], [101, 102], running[starts + places])
    attention = (places < sizes).astype(np.int64)
    words = attention * (places > 0) * (places < sizes - 1)
    words[-1] *= batch == 1
    return dict(zip(INPUTS, (ids * attention, attention, words), strict=True))


def outputs(network: Network, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        found = network(*(torch.from_numpy(each) for each in inputs.values()))
    return dict(zip(network.output_names(), (each.numpy() for each in found), strict=True))


def run(folder: Path, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    session = open_session(folder / GRAPH, "cpu", 2)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_the_fp32_graph_gives_what_the_network_gives(
    network: Network, exact: Path, batch: int, length: int
) -> None:
    inputs = drawn(batch, length)
    expected, found = outputs(network, inputs), run(exact, inputs)
    assert list(found) == network.output_names()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        # Rounding of sums in another order, on logits of up to about 10.
        assert np.abs(found[name] - value).max() < 1e-4


@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_the_int8_graph_stays_near_the_network(network: Network, batch: int, length: int) -> None:
    inputs = drawn(batch, length)
    expected, found = outputs(network, inputs), run(find_bundle(""), inputs)
    assert list(found) == network.output_names()
    assert (expected["embedding"] * found["embedding"]).sum(axis=1).mean() > LEAST_COSINE
    for head in network.heads:
        alpha, other = expected[f"{head}.alpha"], found[f"{head}.alpha"]
        assert np.abs(alpha - other).sum(axis=1).mean() / 2 < MOST_MOVED
        assert np.all(other[inputs["word_mask"] == 0] == 0)


def test_the_packaged_bundle_can_be_exported_as_int8_again(tmp_path: Path) -> None:
    parity = export("", "int8", tmp_path / "int8")
    assert parity.cosine > LEAST_COSINE
    assert load_bundle(str(tmp_path / "int8")).manifest.precision == "int8"


def test_padding_changes_nothing_in_fp32(exact: Path) -> None:
    inputs = drawn(1, 16)
    longer = {name: np.pad(value, ((0, 0), (0, 30))) for name, value in inputs.items()}
    short, padded = run(exact, inputs), run(exact, longer)
    for name, value in short.items():
        assert np.abs(padded[name][:, : value.shape[1]] - value).max() < 1e-5


def test_the_embedding_is_that_of_the_untouched_base(exact: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: install salience[train]")
    encoder = transformers.AutoModel.from_pretrained(base_folder(load_bundle().manifest.base.name)).eval()
    inputs = drawn(7, 16)
    with torch.inference_mode():
        states = encoder(*(torch.from_numpy(inputs[name]) for name in INPUTS[:2])).last_hidden_state.numpy()
    mask = inputs["attention_mask"][:, :, None]
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(run(exact, inputs)["embedding"] - expected).max() < 1e-5


def test_int8_quantises_the_encoder_and_leaves_the_heads_in_fp32() -> None:
    graph = onnx.load(find_bundle("") / GRAPH).graph
    floats = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    heads = {each.name for each in graph.initializer if each.name.startswith("heads.")}
    assert heads and heads <= floats
    matrices = {each.name for each in graph.initializer if each.name in floats and np.prod(each.dims) > 40_000}
    assert len(matrices) == 4  # of each of the two heads: what judges a token, and the classifier's hidden layer


def test_an_exported_bundle_keeps_heads_and_figures_and_says_what_it_is(exact: Path) -> None:
    packaged, exported = load_bundle(), load_bundle(str(exact))
    assert exported.manifest.precision == "fp32"
    assert exported.manifest.heads == packaged.manifest.heads
    assert exported.manifest.files[HEADS] == packaged.manifest.files[HEADS]
    assert exported.manifest.created_from["bundle"] == packaged.identity
    assert exported.identity != packaged.identity


def test_too_low_an_agreement_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object) -> dict[str, np.ndarray]:
        return {"sentiment.logits": np.eye(3, dtype=np.float32), "embedding": np.eye(3, dtype=np.float32)}

    def reversed_(*_: object) -> dict[str, np.ndarray]:
        return {**other(), "sentiment.logits": np.eye(3, dtype=np.float32)[::-1]}

    monkeypatch.setattr(exporting, "load_network", lambda _: None)
    monkeypatch.setattr(exporting, "write_graph", lambda *_: None)
    monkeypatch.setattr(exporting, "network_outputs", other)
    monkeypatch.setattr(exporting, "graph_outputs", reversed_)
    with pytest.raises(BundleError, match=r"sentiment 0\.333 \(at least 0\.9\).*nothing was written"):
        export("", "int8", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("labels", "cosine"), [(0.8, 1.0), (1.0, 0.9)])
def test_low_labels_and_low_cosine_are_each_refused(labels: float, cosine: float) -> None:
    with pytest.raises(BundleError, match="strays too far"):
        require_parity(Parity(32, {"topic": labels}, 0.1, cosine, cosine), "int8")
    require_parity(Parity(32, {"topic": 0.95}, 0.1, 0.98, 0.9), "int8")


def test_another_base_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not the one the bundle was trained on"):
        base_folder(load_bundle().manifest.base.name, "0" * 64)
    with pytest.raises(BundleError, match=r"has no config\.json"):
        base_folder(str(tmp_path))


def test_heads_that_do_not_fit_the_manifest_are_refused(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(find_bundle(""), tmp_path / "bundle"))
    (copied / HEADS).write_bytes(b"no weights")
    write_manifest(copied, load_bundle().manifest)
    with pytest.raises(BundleError, match="do not fit the heads"):
        load_network(load_bundle(str(copied)))


def test_a_folder_with_files_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export("", "fp32", tmp_path)
    with pytest.raises(UsageError, match="fp32 or int8"):
        export("", "fp64", tmp_path / "out")
