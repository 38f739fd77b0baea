"""The network: attention pooling over words, spans and their surroundings, tags, and the sentence vector."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")

from models.network import (  # noqa: E402 (needs torch)
    AttentionPooling,
    EntityHead,
    LabelHead,
    Network,
    SpanHead,
    sentence_vector,
)
from models.recipe import HeadRecipe  # noqa: E402

pytestmark = pytest.mark.train
WIDTH = 16


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def head() -> LabelHead:
    return LabelHead(WIDTH, 3, attention_width=8, classifier_width=8, dropout=0.5).eval()


@pytest.fixture
def spans() -> SpanHead:
    return SpanHead(WIDTH, 3, attention_width=8, classifier_width=0, dropout=0.5).eval()


def padded(tensor: torch.Tensor, more: int) -> torch.Tensor:
    """With noise behind, along the axis of tokens."""
    return torch.cat([tensor, torch.randn(tensor.shape[0], more, *tensor.shape[2:])], dim=1)


# Pooling


def test_attention_sits_on_words_only_and_sums_to_one(head: LabelHead) -> None:
    words = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    _, alpha = head(torch.randn(2, 5, WIDTH) * 10, words)

    assert torch.all(alpha[words == 0] == 0)
    assert torch.all(alpha[words == 1] > 0)
    assert alpha.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_a_text_without_words_pools_cls_and_returns_no_weights(head: LabelHead) -> None:
    states = torch.randn(1, 4, WIDTH)
    logits, alpha = head(states, torch.zeros(1, 4, dtype=torch.long))

    assert torch.all(alpha == 0)
    assert torch.allclose(logits, head.classifier(states[:, 0]))


def test_padding_changes_nothing(head: LabelHead) -> None:
    states, words = torch.randn(1, 4, WIDTH), torch.tensor([[0, 1, 1, 0]])
    logits, alpha = head(states, words)
    again, longer = head(padded(states, 6), torch.nn.functional.pad(words, (0, 6)))

    assert torch.allclose(again, logits, atol=1e-6)
    assert torch.allclose(longer[:, :4], alpha, atol=1e-6)
    assert torch.all(longer[:, 4:] == 0)


def test_pooling_is_the_sum_of_states_by_attention() -> None:
    pooling = AttentionPooling(WIDTH, 8)
    states = torch.randn(1, 4, WIDTH)
    pooled, alpha = pooling(states, torch.tensor([[0, 1, 1, 0]]))

    assert torch.allclose(pooled, alpha @ states[0], atol=1e-6)


def test_gradients_are_finite_for_a_text_without_words(head: LabelHead) -> None:
    logits, _ = head(torch.randn(1, 3, WIDTH), torch.zeros(1, 3, dtype=torch.long))
    logits.sum().backward()

    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_a_classifier_has_a_hidden_layer_only_where_one_is_asked_for() -> None:
    one, two = (LabelHead(WIDTH, 3, 8, width, 0.0).classifier for width in (0, 8))

    assert isinstance(one, torch.nn.Linear)
    assert sum(isinstance(part, torch.nn.Linear) for part in two.modules()) == 2


# Spans


def test_two_spans_of_one_text_get_different_answers(spans: SpanHead) -> None:
    relation = torch.tensor([[0, 1, 8, 9, 0], [0, 3, 2, 1, 0]])
    logits, alpha = spans(torch.randn(1, 5, WIDTH), torch.tensor([0, 0]), relation)

    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    assert not torch.allclose(alpha[0], alpha[1], atol=1e-3)


def test_the_same_span_stands_elsewhere_to_its_words_and_is_read_otherwise(spans: SpanHead) -> None:
    states = torch.randn(1, 5, WIDTH)
    near, far = torch.tensor([[0, 1, 8, 8, 0]]), torch.tensor([[0, 1, 13, 13, 0]])

    assert not torch.allclose(spans(states, torch.tensor([0]), near)[0], spans(states, torch.tensor([0]), far)[0])


def test_a_span_reads_words_only(spans: SpanHead) -> None:
    _, alpha = spans(torch.randn(1, 5, WIDTH), torch.tensor([0]), torch.tensor([[0, 1, 8, 9, 0]]))

    assert torch.all(alpha[0, [0, 4]] == 0)
    assert float(alpha.sum().detach()) == pytest.approx(1.0)


def test_padding_changes_no_span(spans: SpanHead) -> None:
    states, relation = torch.randn(2, 4, WIDTH), torch.tensor([[0, 1, 8, 0], [0, 2, 1, 0]])
    rows = torch.tensor([1, 0])
    logits, _ = spans(states, rows, relation)
    again, _ = spans(padded(states, 3), rows, torch.nn.functional.pad(relation, (0, 3)))

    assert torch.allclose(again, logits, atol=1e-6)


def test_each_span_reads_its_own_text(spans: SpanHead) -> None:
    states, relation = torch.randn(2, 4, WIDTH), torch.tensor([[0, 1, 8, 0]])
    first, _ = spans(states[:1], torch.tensor([0]), relation)
    both, _ = spans(states, torch.tensor([1, 0]), relation.repeat(2, 1))

    assert torch.allclose(both[1], first[0], atol=1e-6)


# Tags


def test_tags_know_the_shapes_of_the_word_before_and_after() -> None:
    head = EntityHead(WIDTH, 5, hidden_width=8, dropout=0.0).eval()
    states = torch.zeros(1, 5, WIDTH)
    plain = head(states, torch.tensor([[0, 1, 1, 1, 0]]))[0]
    other = head(states, torch.tensor([[0, 1, 2, 1, 0]]))[0]

    changed = [not torch.allclose(a, b) for a, b in zip(plain, other, strict=True)]
    assert changed == [False, True, True, True, False]


# The whole


def encoder(layers: int = 2) -> Any:
    module = torch.nn.Identity()
    module.config = SimpleNamespace(hidden_size=WIDTH, num_hidden_layers=layers, vocab_size=100)
    return module


HEADS = (
    HeadRecipe(name="embedding", kind="embedding"),
    HeadRecipe(name="said", kind="span", spans="entity", labels=("a", "b")),
    HeadRecipe(name="entity", kind="entity", labels=("x",)),
    HeadRecipe(name="mood", kind="label", labels=("a", "b"), layer=1),
)


def test_outputs_are_named_texts_first_then_states_and_the_embedding() -> None:
    assert Network(encoder(), HEADS).output_names() == [
        "entity.logits",
        "mood.logits",
        "mood.alpha",
        "said.states",
        "embedding",
    ]


def test_a_head_reads_the_layer_that_it_names_and_the_last_one_otherwise() -> None:
    network = Network(encoder(), HEADS).eval()
    layers = [torch.randn(1, 4, WIDTH) for _ in range(3)]
    ids = torch.tensor([[1, 5, 6, 2]])
    masks = (torch.ones(1, 4, dtype=torch.long), torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 2, 0]]))

    found = dict(zip(network.output_names(), network.read(layers, ids, *masks), strict=True))

    assert torch.equal(found["mood.logits"], network.heads["mood"](layers[1], masks[1])[0])
    assert torch.equal(found["said.states"], layers[2])
    assert torch.equal(found["embedding"], sentence_vector(layers[2], masks[0]))
    assert found["entity.logits"].shape == (1, 4, 3)


def test_the_sentence_vector_is_the_mean_over_all_tokens_but_padding() -> None:
    states = torch.randn(1, 4, WIDTH)
    mean = states[0, :3].mean(dim=0)
    vector = sentence_vector(states, torch.tensor([[1, 1, 1, 0]]))

    assert torch.allclose(vector[0], mean / mean.norm(), atol=1e-6)


def test_the_pooling_takes_any_sequence_not_only_words() -> None:
    head = LabelHead(5, 2, attention_width=4, classifier_width=0, dropout=0.0)
    logits, alpha = head(torch.randn(3, 7, 5), torch.ones(3, 7, dtype=torch.long))

    assert (logits.shape, alpha.shape) == ((3, 2), (3, 7))
    assert alpha.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
