"""The network: attention pooling over words, and the sentence vector of the base."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")

from models.bundle import HeadShape  # noqa: E402 (sorted with the next)
from models.network import AttentionHead, Network, sentence_vector  # noqa: E402 (needs torch)

pytestmark = pytest.mark.train
WIDTH = 16
SHAPE = HeadShape(layer=1, attention_width=8, classifier_width=8)


@pytest.fixture
def head() -> AttentionHead:
    torch.manual_seed(0)
    return AttentionHead(WIDTH, 3, SHAPE).eval()


def test_attention_sits_on_words_only_and_sums_to_one(head: AttentionHead) -> None:
    words = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    _, alpha = head(torch.randn(2, 5, WIDTH) * 10, words)
    assert torch.all(alpha[words == 0] == 0)
    assert torch.all(alpha[words == 1] > 0)
    assert alpha.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_a_text_without_words_pools_cls_and_returns_no_weights(head: AttentionHead) -> None:
    states = torch.randn(1, 4, WIDTH)
    logits, alpha = head(states, torch.zeros(1, 4, dtype=torch.long))
    assert torch.all(alpha == 0)
    assert torch.allclose(logits, head.classifier(states[:, 0]))


def test_padding_changes_nothing(head: AttentionHead) -> None:
    states, words = torch.randn(1, 4, WIDTH), torch.tensor([[0, 1, 1, 0]])
    padded = torch.cat([states, torch.randn(1, 6, WIDTH)], dim=1)
    logits, alpha = head(states, words)
    again, longer = head(padded, torch.nn.functional.pad(words, (0, 6)))
    assert torch.allclose(again, logits, atol=1e-6)
    assert torch.allclose(longer[:, :4], alpha, atol=1e-6)


def test_pooling_is_the_sum_of_states_by_attention(head: AttentionHead) -> None:
    states, words = torch.randn(1, 4, WIDTH), torch.tensor([[0, 1, 1, 0]])
    logits, alpha = head(states, words)
    assert torch.allclose(logits, head.classifier(alpha @ states[0]), atol=1e-6)


def test_gradients_are_finite_for_a_text_without_words(head: AttentionHead) -> None:
    logits, _ = head(torch.randn(1, 3, WIDTH), torch.zeros(1, 3, dtype=torch.long))
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_the_sentence_vector_is_the_mean_over_all_tokens_but_padding() -> None:
    states = torch.randn(1, 4, WIDTH)
    mean = states[0, :3].mean(dim=0)
    vector = sentence_vector(states, torch.tensor([[1, 1, 1, 0]]))
    assert torch.allclose(vector[0], mean / mean.norm(), atol=1e-6)


def test_outputs_are_named_head_by_head_and_end_with_the_embedding() -> None:
    encoder = torch.nn.Identity()
    encoder.config = SimpleNamespace(hidden_size=WIDTH)
    network = Network(encoder, {"sentiment": 3, "topic": 20}, SHAPE)
    assert network.output_names() == [
        "sentiment.logits",
        "sentiment.alpha",
        "topic.logits",
        "topic.alpha",
        "embedding",
    ]
