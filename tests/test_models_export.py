"""Exported graphs against the network they come from: a tiny one in full, and one over the packaged base."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
onnx = pytest.importorskip("onnx", reason="needs onnx: install salience[train]")

from models import export as exporting  # noqa: E402 (needs torch)
from models.base import PACKAGED_BASE, base_folder, load_encoder  # noqa: E402
from models.bundle import (  # noqa: E402
    ADAPTERS,
    GRAPH,
    HEADS,
    SPAN_GRAPH,
    TOKENIZER,
    load_bundle,
    write_manifest,
)
from models.export import export, load_network  # noqa: E402
from models.graph import write_graphs  # noqa: E402
from models.graphs import Graphs  # noqa: E402
from models.network import Network  # noqa: E402
from models.ngrams import PAIRS, Ngrams  # noqa: E402
from models.parity import Parity, agreement, joined, outputs_of, require_parity  # noqa: E402
from models.probe import PROBES  # noqa: E402
from models.recipe import HeadRecipe  # noqa: E402
from models.runner import NetworkRunner  # noqa: E402
from models.spans import relations  # noqa: E402
from models.tokens import Batch, TextTokenizer  # noqa: E402
from schemas.errors import BundleError, UsageError  # noqa: E402

pytestmark = pytest.mark.train
TEXTS = ["Acme soars as Bolt sinks today", "Ok", "", "Corvane gains " * 20]
HEADS_OF_REAL = (
    HeadRecipe(name="mood", kind="label", labels=("bad", "even", "good"), classifier_width=16),
    HeadRecipe(name="early", kind="label", labels=("a", "b"), layer=2),
    HeadRecipe(name="entity", kind="entity", labels=("company", "person")),
    HeadRecipe(name="said", kind="span", spans="entity", labels=("bad", "good")),
    HeadRecipe(name="embedding", kind="embedding"),
)
# Operators that ONNX Runtime makes of attention, and of what stands around it.
FUSED = {"Attention", "MultiHeadAttention", "SkipLayerNormalization"}


def graphs(folder: Path) -> Graphs:
    return Graphs(folder / GRAPH, folder / SPAN_GRAPH, "cpu", threads=1)


def batch_of(folder: Path, texts: Sequence[str]) -> Batch:
    tokenizer = TextTokenizer(folder / TOKENIZER, 128)
    return tokenizer.collate(texts, tokenizer.encode(texts), np.arange(len(texts)))


# Every kind of head over the tiny base


@pytest.fixture(scope="module")
def network(tiny: Path) -> Network:
    return load_network(load_bundle(str(tiny)))


@pytest.mark.parametrize("count", [1, 4])
def test_the_fp32_graph_gives_what_the_network_gives(network: Network, tiny: Path, count: int) -> None:
    batch = batch_of(tiny, TEXTS[:count])
    expected, found = NetworkRunner(network).texts(batch), graphs(tiny).texts(batch)

    assert list(found) == network.output_names()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.abs(found[name] - value).max() < 1e-4


def test_the_graph_for_spans_gives_what_the_network_gives(network: Network, tiny: Path) -> None:
    batch = batch_of(tiny, TEXTS)
    rows = np.array([3, 0, 0])
    relation = relations(batch.word_numbers, rows.tolist(), [(0, 2), (0, 1), (3, 4)])
    runners = (NetworkRunner(network), graphs(tiny))
    expected, found = (runner.spans(runner.texts(batch), rows, relation) for runner in runners)

    assert set(found) == set(expected) == {"entity_sentiment.logits", "entity_sentiment.alpha"}
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 1e-4


def test_padding_changes_nothing_in_the_graph(tiny: Path) -> None:
    runner, batch = graphs(tiny), batch_of(tiny, TEXTS[:1])
    alone, beside = runner.texts(batch), runner.texts(batch_of(tiny, [TEXTS[0], TEXTS[3]]))
    words = np.flatnonzero(batch.word_mask[0])

    for name, value in alone.items():
        of_words = value.ndim == 3 or name.endswith("alpha")
        one, other = (each[0][words] if of_words else each[0] for each in (value, beside[name]))
        assert np.abs(one - other).max() < 1e-4, name


def test_a_bundle_exports_again_with_its_heads_figures_and_weights(tiny: Path, tmp_path: Path) -> None:
    parity = export(str(tiny), "fp32", tmp_path / "out")
    before, after = load_bundle(str(tiny)), load_bundle(str(tmp_path / "out"))

    assert parity.labels == dict.fromkeys(("sentiment", "intent", "entity", "entity_sentiment"), 1.0)
    assert after.manifest.heads == before.manifest.heads
    for name in (HEADS, ADAPTERS):
        assert after.manifest.files[name] == before.manifest.files[name]
    assert after.manifest.created_from["bundle"] == before.identity
    assert (after.identity != before.identity, after.embedding) == (True, before.embedding)


def test_the_network_of_a_bundle_is_the_one_that_was_trained(network: Network, tiny: Path) -> None:
    """Adapters are added to the base, and make a difference."""
    bare = Network(
        load_encoder(base_folder(load_bundle(str(tiny)).manifest.base.name)), load_bundle(str(tiny)).manifest.heads
    )
    bare.heads.load_state_dict(network.heads.state_dict())
    batch = batch_of(tiny, TEXTS)
    tuned, untuned = (NetworkRunner(each).texts(batch)["embedding"] for each in (network, bare))

    assert np.abs(tuned - graphs(tiny).texts(batch)["embedding"]).max() < 1e-4
    assert np.abs(tuned - untuned).max() > 1e-3


# In other precisions over the packaged base, under random heads


@pytest.fixture(scope="module")
def real() -> Iterator[Network]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    network = Network(load_encoder(base_folder(PACKAGED_BASE)), HEADS_OF_REAL).eval()
    network.heads["mood"].ngrams = random_ngrams()
    yield network
    torch.set_num_threads(before)


def random_ngrams() -> Ngrams:
    """Weights for a tenth of all tokens and pairs."""
    found = Ngrams(16_000, 3, 2, 30_522)
    found.places.copy_(torch.randperm(30_522 + PAIRS)[:16_000])
    found.weight.copy_(torch.randint(-127, 128, (16_000, 3)))
    found.scale.fill_(0.01)
    return found


@pytest.fixture(scope="module")
def exact(real: Network) -> dict[str, Any]:
    return outputs_of(NetworkRunner(real), real, tokenizer_of_real(), PROBES)


@pytest.fixture(scope="module")
def int8(real: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    write_graphs(real, "int8", folder)
    return folder


@pytest.fixture(scope="module")
def fp16(real: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp16")
    write_graphs(real, "fp16", folder)
    return folder


def tokenizer_of_real() -> TextTokenizer:
    return TextTokenizer(base_folder(PACKAGED_BASE) / TOKENIZER, 128)


def test_int8_stays_near_the_network(real: Network, exact: dict[str, Any], int8: Path) -> None:
    found = outputs_of(graphs(int8), real, tokenizer_of_real(), PROBES)
    parity = agreement(exact, found, len(PROBES))

    assert parity.cosine >= 0.98
    assert min(parity.labels.values()) >= 0.8  # of heads that are random, hence often near a tie


def test_int8_gives_a_text_the_same_whatever_its_neighbours(int8: Path) -> None:
    runner = graphs(int8)
    folder = base_folder(PACKAGED_BASE)
    texts = ["Acme falls sharply on weak results today", "Bolt rises 12%", "Crude"]
    alone = runner.texts(batch_of(folder, texts[:1]))
    for others in (texts[1:2], texts[1:]):
        beside = runner.texts(batch_of(folder, [texts[0], *others]))
        for name, value in alone.items():
            assert np.abs(beside[name][0] - value[0]).max() < 1e-5, name


def test_int8_quantises_the_encoder_and_leaves_the_heads_in_fp32(int8: Path) -> None:
    graph = onnx.load(int8 / GRAPH).graph
    floats = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    heads = {
        each.name for each in graph.initializer if each.name.startswith("heads.") and ".ngrams." not in each.name
    }
    large = {each.name for each in graph.initializer if each.name in floats and np.prod(each.dims) > 60_000}

    assert heads and heads <= floats
    assert large == set()
    assert sum(file.stat().st_size for file in int8.iterdir()) < 27_000_000


def test_fp16_stays_near_the_network(real: Network, exact: dict[str, Any], fp16: Path) -> None:
    found = outputs_of(graphs(fp16), real, tokenizer_of_real(), PROBES)
    parity = agreement(exact, found, len(PROBES))

    assert parity.cosine >= 0.999
    assert parity.logits < 0.05


def test_fp16_has_the_inputs_and_outputs_of_the_network_in_their_types(real: Network, fp16: Path) -> None:
    graph = onnx.load(fp16 / GRAPH).graph

    assert {each.name for each in graph.input} == {"input_ids", "attention_mask", "word_mask", "word_shapes"}
    assert {each.type.tensor_type.elem_type for each in graph.input} == {onnx.TensorProto.INT64}
    assert [each.name for each in graph.output] == real.output_names()
    assert {each.type.tensor_type.elem_type for each in graph.output} == {onnx.TensorProto.FLOAT}


def test_fp16_has_fused_attention_in_every_layer_and_half_the_weights(real: Network, fp16: Path) -> None:
    graph = onnx.load(fp16 / GRAPH).graph
    fused = [node.op_type for node in graph.node if node.domain == "com.microsoft"]
    layers = real.encoder.config.num_hidden_layers

    assert sum(each in ("Attention", "MultiHeadAttention") for each in fused) == layers
    assert FUSED & set(fused) >= {"SkipLayerNormalization"}
    halves = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(each.dims) for each in halves) > 20_000_000


def test_fp16_takes_texts_of_any_length_and_number(real: Network, fp16: Path) -> None:
    folder, runner = base_folder(PACKAGED_BASE), graphs(fp16)
    for texts in (["Ok"], ["", "Acme falls " * 40, "Ok"]):
        batch = batch_of(folder, texts)
        expected, found = NetworkRunner(real).texts(batch), runner.texts(batch)
        for name in ("mood.alpha", "entity.logits", "embedding"):
            assert found[name].shape == expected[name].shape
            assert np.abs(found[name] - expected[name]).max() < 0.05


# What is refused


def test_too_low_an_agreement_is_refused_and_nothing_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"sentiment": labels, "embedding": np.eye(3, dtype=np.float32)}

    # Of network and graph, over headlines and over questions.
    said = iter([other(np.eye(3, dtype=np.float32)[::way]) for way in (1, -1, 1, -1)])
    monkeypatch.setattr(exporting, "load_network", lambda _: SimpleNamespace(of_spans=[]))
    monkeypatch.setattr(exporting, "write_graphs", lambda *_: {GRAPH: tiny / GRAPH})
    monkeypatch.setattr(exporting, "NetworkRunner", lambda _: None)
    monkeypatch.setattr(exporting, "outputs_of", lambda *_: next(said))
    with pytest.raises(BundleError, match=r"sentiment 0\.333 \(at least 0\.9\).*nothing was written"):
        export(str(tiny), "int8", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_reads_chat_only_is_compared_on_questions() -> None:
    news, chat = (
        Parity(32, {"topic": own, "intent": other}, 0.1, 0.99, 0.98) for own, other in ((1.0, 0.5), (0.5, 0.9))
    )

    assert joined(news, chat, ["intent"]).labels == {"topic": 1.0, "intent": 0.9}


@pytest.mark.parametrize(("labels", "cosine"), [(0.8, 1.0), (1.0, 0.9)])
def test_low_labels_and_low_cosine_are_each_refused(labels: float, cosine: float) -> None:
    with pytest.raises(BundleError, match="strays too far"):
        require_parity(Parity(32, {"topic": labels}, 0.1, cosine, cosine), "int8")
    require_parity(Parity(32, {"topic": 0.95}, 0.1, 0.98, 0.9), "int8")


def test_another_base_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not the one the bundle was trained on"):
        base_folder(PACKAGED_BASE, "0" * 64)
    with pytest.raises(BundleError, match=r"has no config\.json"):
        base_folder(str(tmp_path))


@pytest.mark.parametrize("name", [HEADS, ADAPTERS])
def test_weights_that_do_not_fit_the_manifest_are_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    copied = Path(shutil.copytree(tiny, tmp_path / "bundle"))
    (copied / name).write_bytes(b"no weights")
    write_manifest(copied, load_bundle(str(tiny)).manifest)
    with pytest.raises(BundleError, match="do not fit what the manifest says"):
        load_network(load_bundle(str(copied)))


def test_adapters_of_another_network_are_refused(tiny: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(tiny, tmp_path / "bundle"))
    shutil.copy(copied / HEADS, copied / ADAPTERS)
    write_manifest(copied, load_bundle(str(tiny)).manifest)
    with pytest.raises(BundleError, match="do not fit the base and the manifest"):
        load_network(load_bundle(str(copied)))


def test_a_folder_with_files_is_never_written_over(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export(str(tiny), "fp32", tmp_path)
    with pytest.raises(UsageError, match="fp32, fp16, int8"):
        export(str(tiny), "fp64", tmp_path / "out")  # type: ignore[arg-type]
