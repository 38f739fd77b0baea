"""The serving model on the packaged bundle; nothing here needs torch."""

import subprocess
import sys

import numpy as np
import pytest

from models.bundle import load_bundle
from models.runtime import OnnxScorer, load_scorer
from schemas.errors import OutageError, ScoringError
from schemas.scores import Score

TEXTS = [
    "Beyond Meat shares fall 12% after the company cuts its outlook for the year",
    "Ok",
    "Crude settles higher as producers agree to extend output cuts https://t.co/x",
    "",
    "Retailer names a new chief financial officer, effective in March",
    "Treasury yields climb to the highest level since 2007",
]


@pytest.fixture(scope="module")
def scorer() -> OnnxScorer:
    return OnnxScorer(load_bundle(), threads=1, cache_size=0)


def vector(score: Score) -> np.ndarray:
    return np.frombuffer(score.embedding, np.int8).astype(np.float32) * score.scale


def test_the_packaged_bundle_scores_real_text_without_torch() -> None:
    program = (
        "import sys; from models.runtime import load_scorer; import models.bundle, models.stub\n"
        "text = 'Shares of Beyond Meat plunge after the company cuts its outlook'\n"
        "score, = load_scorer(threads=1).score([text], 'news')\n"
        "loaded = {'torch', 'transformers', 'onnx', 'sklearn', 'safetensors'} & set(sys.modules)\n"
        "print(score.heads['sentiment'].label, sorted(loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "negative []"
    assert done.stderr == ""


def test_scores_come_back_in_the_order_given() -> None:
    together = load_scorer(threads=1, batch_tokens=24, cache_size=0).score(TEXTS, "news")
    assert [score.tokens for score in together] == [len_tokens(text) for text in TEXTS]
    scorer = load_scorer(threads=1, cache_size=0)
    alone = np.stack([vector(scorer.score([text], "news")[0]) for text in TEXTS])
    # int8 moves a vector with its batch, but never nearer to another text's.
    similar = np.stack([vector(score) for score in together]) @ alone.T
    assert similar.argmax(axis=1).tolist() == list(range(len(TEXTS)))


def len_tokens(text: str) -> int:
    (batch,) = OnnxScorer(load_bundle(), threads=1).prepare([text])
    return int(batch.attention_mask.sum())


def test_the_steps_one_by_one_give_what_score_gives(scorer: OnnxScorer) -> None:
    batches = scorer.prepare(TEXTS)
    outputs = [scorer.infer(batch) for batch in batches]
    assert scorer.interpret(batches, outputs, "news") == scorer.score(TEXTS, "news")


def test_each_stream_gets_its_heads_and_every_text_an_embedding(scorer: OnnxScorer) -> None:
    for stream in ("news", "chat", "behavior"):
        (score,) = scorer.score(TEXTS[:1], stream)
        assert tuple(score.heads) == scorer.heads(stream)
        assert np.linalg.norm(vector(score)) == pytest.approx(1.0, abs=0.01)
    assert scorer.heads("chat") == scorer.heads("weather") == ()


def test_the_embedding_is_packed_by_its_largest_value(scorer: OnnxScorer) -> None:
    (batch,) = scorer.prepare(TEXTS[:1])
    exact = scorer.infer(batch)["embedding"][0]
    (score,) = scorer.score(TEXTS[:1], "chat")
    assert score.scale == pytest.approx(np.abs(exact).max() / 127)
    assert np.abs(vector(score) - exact).max() <= score.scale / 2 + 1e-7


def test_words_are_whole_as_written_strongest_first_and_weigh_at_most_one(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(TEXTS[:1], "news")
    for head in score.heads.values():
        weights = [word.weight for word in head.words]
        assert len(weights) == 5
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) <= 1 + 1e-6
        assert all(word.text in TEXTS[0] and word.text for word in head.words)


def test_weights_of_all_words_sum_to_one() -> None:
    (score,) = load_scorer(threads=1, top_words=100).score(["$BYND slumps, Beyond Meat's worst day"], "news")
    words = score.heads["sentiment"].words
    assert sum(word.weight for word in words) == pytest.approx(1.0, abs=1e-5)
    assert sorted(word.text for word in words) == sorted(
        ["$", "BYND", "slumps", ",", "Beyond", "Meat", "'", "s", "worst", "day"]
    )


def test_a_text_without_words_has_labels_and_no_words(scorer: OnnxScorer) -> None:
    for text in ("", "  https://t.co/abc "):
        (score,) = scorer.score([text], "news")
        assert score.tokens == 2
        assert all(head.words == [] and head.label for head in score.heads.values())


def test_a_word_without_end_is_cut_to_64_characters(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(["Shares of " + "a" * 100_000 + " fall"], "news")
    assert "a" * 64 in [word.text for word in score.heads["sentiment"].words]


def test_probabilities_are_softmax_after_temperature(scorer: OnnxScorer) -> None:
    (batch,) = scorer.prepare(TEXTS[:1])
    logits = scorer.infer(batch)["topic.logits"][0].astype(float)
    head = next(head for head in load_bundle().manifest.heads if head.name == "topic")
    powers = np.exp(logits / head.temperature)
    (score,) = scorer.score(TEXTS[:1], "news")
    assert score.heads["topic"].probability == pytest.approx(powers.max() / powers.sum(), rel=1e-4)
    assert score.heads["topic"].label == head.labels[int(logits.argmax())]
    assert score.heads["topic"].decision == "label"


def test_a_long_text_is_cut_and_says_so(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(["shares fall " * 400], "news")
    assert (score.tokens, score.truncated) == (128, True)
    assert not scorer.score(TEXTS[:1], "news")[0].truncated


def test_the_cache_remembers_up_to_its_size_and_forgets_the_oldest() -> None:
    scorer = OnnxScorer(load_bundle(), threads=1, cache_size=2)
    first, second = scorer.score(["one", "two"], "news")
    assert scorer.score(["one"], "news")[0] is first
    scorer.score(["three"], "news")
    assert len(scorer._cache) == 2
    assert scorer.score(["one"], "news")[0] is first
    assert scorer.score(["two"], "news")[0] is not second


def test_the_cache_knows_repeats_that_differ_in_their_link_and_keeps_heads_apart() -> None:
    scorer = OnnxScorer(load_bundle(), threads=1)
    one, other = scorer.score(["Crude falls https://t.co/a", "Crude  falls https://t.co/b"], "news")
    assert one is other
    assert scorer.score(["Crude falls"], "chat")[0].heads == {}
    assert scorer.score(["Crude falls"], "behavior")[0] is one


def test_the_cache_keeps_no_text() -> None:
    scorer = OnnxScorer(load_bundle(), threads=1)
    scorer.score(["Crude falls " * 10_000], "news")
    ((heads, embeds, text),) = scorer._cache
    assert (heads, embeds, len(text)) == (("sentiment", "topic"), True, 16)


def test_a_lone_surrogate_is_a_scoring_error_with_a_cache_too() -> None:
    with pytest.raises(ScoringError, match="not Unicode"):
        OnnxScorer(load_bundle(), threads=1).score(["Crude \ud800 falls"], "news")


def test_a_chunk_larger_than_the_cache_still_scores_every_text() -> None:
    scorer = OnnxScorer(load_bundle(), threads=1, cache_size=1)
    assert [score.tokens for score in scorer.score(["a", "b c", "a"], "news")] == [3, 4, 3]


def test_a_text_scores_the_same_in_every_batch() -> None:
    scorer = load_scorer(cache_size=0)
    texts = [f"Acme {verb} {'sharply ' * repeat}on results" for verb in ("falls", "rises") for repeat in range(12)]
    together, alone = scorer.score(texts, "news"), [scorer.score([text], "news")[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert {name: head.label for name, head in one.heads.items()} == {
            name: head.label for name, head in other.heads.items()
        }
        assert all(
            head.probability == pytest.approx(other.heads[name].probability, abs=1e-5)
            for name, head in one.heads.items()
        )


def test_no_texts_give_no_scores(scorer: OnnxScorer) -> None:
    assert scorer.score([], "news") == []


def test_a_figure_that_is_not_finite_is_a_scoring_error(scorer: OnnxScorer) -> None:
    batches = scorer.prepare(TEXTS[:1])
    outputs = {name: np.full_like(value, np.nan) for name, value in scorer.infer(batches[0]).items()}
    with pytest.raises(ScoringError, match="not finite"):
        scorer.interpret(batches, [outputs], "news")


def test_a_failing_processor_is_an_outage_and_no_fault_of_a_text(
    scorer: OnnxScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        def run(self, *_: object) -> None:
            raise RuntimeError("device lost")

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(scorer, "_session", Lost())
    with pytest.raises(OutageError, match=r"1 texts by 3 tokens.*device lost"):
        scorer.score(["Ok"], "news")


def test_warming_up_changes_no_score(scorer: OnnxScorer) -> None:
    before = scorer.score(TEXTS, "news")
    scorer.warm_up()
    assert scorer.score(TEXTS, "news") == before
