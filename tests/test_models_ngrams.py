"""N-grams beside a head that pools: what they add, how they are learned, and how much they may say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("peft", reason="needs peft: install salience[train]")

from tokenizers import Tokenizer  # noqa: E402 (after torch)
from training import Bench  # noqa: E402

from models import corpus as corpora  # noqa: E402
from models.blend import LEAST_PAIR, LEAST_TOKEN, add_ngrams, factors, fit_ngrams  # noqa: E402
from models.bundle import TOKENIZER  # noqa: E402
from models.corpus import Corpus  # noqa: E402
from models.data import Example  # noqa: E402
from models.losses import cross_entropy  # noqa: E402
from models.network import LabelHead  # noqa: E402
from models.ngrams import PAIRS, Ngrams, pair_places  # noqa: E402
from models.predict import answers  # noqa: E402
from models.recipe import HeadRecipe  # noqa: E402
from models.runner import NetworkRunner  # noqa: E402

pytestmark = pytest.mark.train

VOCABULARY = 100
SENTIMENT = HeadRecipe(
    name="sentiment", kind="label", labels=("negative", "neutral", "positive"), streams=("news",), ngrams=2
)


def ngrams(order: int = 2) -> Ngrams:
    """Tokens 7 and 9 and, in order 2, the pair of them; three labels."""
    pair = int(pair_places(torch.tensor([[7, 9]]), VOCABULARY))
    places = [7, 9, pair][: order + 1]
    found = Ngrams(len(places), 3, order, VOCABULARY)
    found.places.copy_(torch.tensor(places))
    found.weight.copy_(torch.tensor([[10, 0, 0], [0, -4, 0], [0, 0, 100]])[: len(places)])
    found.scale.copy_(torch.tensor([0.5, 1.0, 0.01]))
    found.bias.copy_(torch.tensor([0.0, 0.0, 0.25]))
    return found


def said(module: Ngrams, ids: Sequence[int], mask: Sequence[int]) -> list[float]:
    found: list[float] = module(torch.tensor([ids]), torch.tensor([mask]))[0].tolist()
    return found


# What they add


def test_tokens_and_pairs_add_their_weights_over_the_root_of_their_number() -> None:
    # Four words and three pairs, of which two words and one pair have weights.
    root = 7**0.5
    assert said(ngrams(), [1, 3, 7, 9, 3, 2], [0, 1, 1, 1, 1, 0]) == pytest.approx(
        [5 / root, -4 / root, 1 / root + 0.25]
    )


def test_without_pairs_only_tokens_count() -> None:
    assert said(ngrams(1), [3, 7, 9, 3], [1, 1, 1, 1]) == pytest.approx([5 / 2, -4 / 2, 0.25])


def test_special_tokens_and_padding_say_nothing() -> None:
    alone = said(ngrams(), [7, 9], [1, 1])
    assert said(ngrams(), [9, 7, 9, 7, 0, 0], [0, 1, 1, 0, 0, 0]) == pytest.approx(alone)


def test_a_pair_is_two_words_in_their_order_side_by_side() -> None:
    places = {tuple(pair): int(pair_places(torch.tensor([pair]), VOCABULARY)) for pair in ([7, 9], [9, 7], [7, 8])}
    assert len(set(places.values())) == 3
    assert all(VOCABULARY <= place < VOCABULARY + PAIRS for place in places.values())
    assert said(ngrams(), [9, 7], [1, 1])[2] == pytest.approx(0.25)


def test_a_text_without_words_has_the_bias_alone() -> None:
    assert said(ngrams(), [1, 2], [0, 0]) == pytest.approx([0.0, 0.0, 0.25])


def test_the_shares_of_tokens_sum_to_the_whole_without_its_bias() -> None:
    ids, mask = (
        torch.tensor([[1, 3, 7, 9, 3, 2], [1, 7, 2, 0, 0, 0]]),
        torch.tensor([[0, 1, 1, 1, 1, 0], [0, 1] + [0] * 4]),
    )
    module = ngrams()
    shares = module.shares(ids, mask)

    assert torch.allclose(shares.sum(dim=1) + module.bias, module(ids, mask), atol=1e-6)
    # The pair of 7 and 9 is shared by halves.
    assert shares[0, 2, 2].item() == shares[0, 3, 2].item() == pytest.approx(0.5 / 7**0.5)


# How they are learned


@pytest.fixture(scope="module")
def bench(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(random_base, tmp_path_factory.mktemp("bench"))


def corpus(bench: Bench, *rows: tuple[str, str]) -> Corpus:
    """Texts under labels of sentiment."""
    examples = [Example(text, {"sentiment": label}) for text, label in rows]
    return corpora.read([examples], bench.recipe, bench.tokenizer)


def vocabulary(bench: Bench) -> dict[str, int]:
    found: dict[str, int] = Tokenizer.from_file(str(bench.base / TOKENIZER)).get_vocab()
    return found


def logits(module: Ngrams, bench: Bench, *texts: str) -> np.ndarray:
    found = corpus(bench, *((text, "neutral") for text in texts))
    batch = bench.tokenizer.collate(found.texts, found.encodings, np.arange(len(texts)))
    return module(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.word_mask)).numpy()


def fitted(bench: Bench, head: HeadRecipe, *rows: tuple[str, str]) -> Ngrams | None:
    return fit_ngrams(corpus(bench, *rows), head, len(vocabulary(bench)))


def test_words_learn_the_labels_that_they_stand_under(bench: Bench) -> None:
    rows = [
        (f"firm {number} {verb}", label)
        for number in range(6)
        for verb, label in (("rises", "positive"), ("falls", "negative"), ("opens", "neutral"))
    ]
    module = fitted(bench, SENTIMENT, *rows)

    assert module is not None
    assert logits(module, bench, "Acme falls", "Acme opens", "Acme rises").argmax(axis=1).tolist() == [0, 1, 2]


def test_pairs_tell_what_their_words_cannot(bench: Bench) -> None:
    """Each word stands under both labels as often; only their order differs."""
    rows = [("profit beats loss", "positive"), ("loss beats profit", "negative")] * LEAST_PAIR
    alone = fitted(bench, HeadRecipe(name="sentiment", kind="label", labels=SENTIMENT.labels, ngrams=1), *rows)
    pairs = fitted(bench, SENTIMENT, *rows)

    assert alone is not None and pairs is not None
    one, other = logits(alone, bench, "profit beats loss", "loss beats profit")
    assert np.abs(one - other).max() < 1e-6
    assert logits(pairs, bench, "profit beats loss", "loss beats profit").argmax(axis=1).tolist() == [2, 0]


def test_what_stands_in_too_few_texts_gets_no_weights(bench: Bench) -> None:
    often = [("up", "positive"), ("down", "negative")] * LEAST_TOKEN
    module = fitted(bench, SENTIMENT, *often, ("sideways", "negative"))

    assert module is not None
    assert set(module.places.tolist()) == {vocabulary(bench)["up"], vocabulary(bench)["down"]}


def test_a_label_that_no_text_has_is_as_unlikely_as_the_rarest(bench: Bench) -> None:
    module = fitted(bench, SENTIMENT, *[("up", "positive"), ("down", "negative"), ("down", "negative")] * 3)

    assert module is not None
    assert module.bias[1] == module.bias.min()
    assert torch.isfinite(module.bias).all()


@pytest.mark.parametrize("rows", [[], [("up", "positive")] * 9, [("up", "positive"), ("down", "negative")]])
def test_too_few_texts_give_no_ngrams(bench: Bench, rows: list[tuple[str, str]]) -> None:
    assert fitted(bench, SENTIMENT, *rows) is None


# How much they may say


def test_factors_find_the_mixture_that_labels_were_drawn_from() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 20_000, 3)).astype(np.float32)
    mixed = 2.0 * one + 0.5 * other
    labels = (mixed + random.gumbel(size=mixed.shape)).argmax(axis=1)

    assert factors(one, other, labels) == pytest.approx((2.0, 0.5), abs=0.05)


def test_what_says_the_opposite_of_the_truth_is_not_listened_to() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(5_000, 3)).astype(np.float32)
    labels = (2 * one + random.gumbel(size=one.shape)).argmax(axis=1)

    assert factors(one, -one, labels)[1] == 0.0


def test_a_handful_of_texts_hands_the_answers_to_neither() -> None:
    """Here the n-grams are right five times of five, and the network is not."""
    labels = np.array([0, 1, 2, 0, 1])
    sure = np.eye(3, dtype=np.float32)[labels] * 9
    network, ngrams = factors(-sure, sure, labels)

    assert 0.02 <= network < 1
    assert 0 < ngrams < 1


def test_a_head_with_ngrams_does_not_leave_them_out_in_silence() -> None:
    head = LabelHead(4, 3, attention_width=4, classifier_width=0, dropout=0.0).eval()
    states, words, ids = torch.ones(1, 2, 4), torch.ones(1, 2), torch.tensor([[7, 9]])
    without = head(states, words)[0]
    head.ngrams = ngrams()

    with pytest.raises(ValueError, match="give ids, or call without_ngrams"):
        head(states, words)
    assert torch.equal(head.without_ngrams(states, words)[0], without)
    assert not torch.equal(head(states, words, ids)[0], without)


def test_a_network_with_ngrams_is_surer_of_what_it_never_saw(bench: Bench) -> None:
    """A network of random weights knows nothing: what its n-grams learned is all there is."""
    network = bench.network()
    before = answers(NetworkRunner(network), bench.splits["test"], bench.recipe, bench.tokenizer)
    notes = add_ngrams(network, bench.recipe, bench.splits, bench.tokenizer)
    after = answers(NetworkRunner(network), bench.splits["test"], bench.recipe, bench.tokenizer)

    assert set(notes) == {"sentiment", "intent"}
    for name in notes:
        losses = [
            cross_entropy(torch.from_numpy(each.logits[name]), each.labels[name].tolist())
            for each in (before, after)
        ]
        assert losses[1] < losses[0] / 1.5, name


def test_ngrams_added_again_are_the_same(bench: Bench) -> None:
    network = bench.network()
    add_ngrams(network, bench.recipe, bench.splits, bench.tokenizer)
    once = {name: value.clone() for name, value in network.heads.state_dict().items()}
    add_ngrams(network, bench.recipe, bench.splits, bench.tokenizer)

    assert all(torch.equal(value, once[name]) for name, value in network.heads.state_dict().items())
