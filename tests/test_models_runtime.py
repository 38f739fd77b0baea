"""The serving model; nothing here but the making of the tiny bundle needs torch."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from models import runtime
from models.bundle import Bundle, load_bundle
from models.runtime import OnnxScorer, load_scorer
from schemas.errors import OutageError, ScoringError
from schemas.scores import Score

TEXTS = [
    "Acme soars as Bolt sinks today",
    "Ok",
    "Zenith opens https://t.co/x",
    "",
    "Corvane gains as Nokira drops",
    "Quanta falls after results",
]
WITHOUT_TORCH = """
import sys
from models.runtime import load_scorer
import models.bundle, models.stub
score, = load_scorer({bundle!r}, threads=1).score([{text!r}], 'news')
loaded = {{'torch', 'transformers', 'onnx', 'peft', 'sklearn', 'safetensors'}} & set(sys.modules)
print(score.heads['sentiment'].label, sorted(loaded))
"""


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(str(tiny))


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> OnnxScorer:
    return OnnxScorer(bundle, threads=1, cache_size=0)


def with_head(bundle: Bundle, name: str, **changes: Any) -> OnnxScorer:
    """The bundle's scorer with one head changed."""
    heads = tuple(
        msgspec.structs.replace(head, **changes) if head.name == name else head for head in bundle.manifest.heads
    )
    changed = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, heads=heads), bundle.identity)
    return OnnxScorer(changed, threads=1, cache_size=0)


def vector(score: Score) -> np.ndarray:
    return np.frombuffer(score.embedding, np.int8).astype(np.float32) * score.scale


def same(one: Score, other: Score) -> bool:
    """Equal but for rounding: a sum over a longer batch adds up in another order."""
    return all(
        (head.label, head.decision) == (other.heads[name].label, other.heads[name].decision)
        and head.probability == pytest.approx(other.heads[name].probability, abs=1e-4)
        for name, head in one.heads.items()
    ) and bool(np.abs(vector(one) - vector(other)).max() < 0.02)


def of_process(bundle: str, text: str) -> str:
    program = WITHOUT_TORCH.format(bundle=bundle, text=text)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_packaged_bundle_scores_real_text_without_torch() -> None:
    text = "Shares of Beyond Meat plunge after the company cuts its outlook"

    assert of_process("", text) == "negative []"


def test_a_bundle_of_every_kind_of_head_scores_without_torch(tiny: Path) -> None:
    assert of_process(str(tiny), "Acme falls").endswith("[]")


def test_scores_come_back_in_the_order_given(bundle: Bundle, scorer: OnnxScorer) -> None:
    together = OnnxScorer(bundle, threads=1, batch_tokens=24, cache_size=0).score(TEXTS, "news")

    assert all(same(score, scorer.score([text], "news")[0]) for score, text in zip(together, TEXTS, strict=True))


def test_the_steps_one_by_one_give_what_score_gives(scorer: OnnxScorer) -> None:
    batches = scorer.prepare(TEXTS)
    found = [scorer.infer(batch, "news") for batch in batches]

    assert scorer.interpret(batches, found, "news") == scorer.score(TEXTS, "news")


def test_each_stream_gets_its_heads_and_every_text_an_embedding(scorer: OnnxScorer) -> None:
    for stream in ("news", "chat", "behavior"):
        (score,) = scorer.score(TEXTS[:1], stream)
        assert tuple(score.heads) == scorer.heads(stream) != ()
        assert np.linalg.norm(vector(score)) == pytest.approx(1.0, abs=0.02)
    assert scorer.heads("weather") == ()


def test_the_embedding_is_packed_by_its_largest_value(scorer: OnnxScorer) -> None:
    (batch,) = scorer.prepare(TEXTS[:1])
    exact = scorer.infer(batch, "chat").outputs["embedding"][0]
    (score,) = scorer.score(TEXTS[:1], "chat")

    assert score.scale == pytest.approx(np.abs(exact).max() / 127)
    assert np.abs(vector(score) - exact).max() <= score.scale / 2 + 1e-7


# Words


def test_words_are_whole_as_written_strongest_first_and_weigh_at_most_one(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(TEXTS[:1], "news")
    words = score.heads["sentiment"].words
    weights = [word.weight for word in words]

    assert len(weights) == 5
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) <= 1 + 1e-6
    assert all(word.text in TEXTS[0].split() for word in words)


def test_weights_of_all_words_sum_to_one(bundle: Bundle) -> None:
    scorer = OnnxScorer(bundle, threads=1, top_words=100)
    (score,) = scorer.score(["$BYND slumps, Beyond Meat's worst day"], "news")
    words = score.heads["sentiment"].words

    assert sum(word.weight for word in words) == pytest.approx(1.0, abs=1e-5)
    assert sorted(word.text for word in words) == sorted(
        ["$", "BYND", "slumps", ",", "Beyond", "Meat", "'", "s", "worst", "day"]
    )


def test_a_text_without_words_has_labels_and_no_words(scorer: OnnxScorer) -> None:
    for text in ("", "  https://t.co/abc "):
        (score,) = scorer.score([text], "news")
        assert score.tokens == 2
        assert score.heads["sentiment"].label
        assert (score.heads["sentiment"].words, score.heads["entity"].entities) == ([], [])


def test_a_word_without_end_is_cut_to_64_characters(bundle: Bundle) -> None:
    scorer = OnnxScorer(bundle, threads=1, top_words=100)
    (score,) = scorer.score(["Shares of " + "a" * 100_000 + " fall"], "news")

    assert "a" * 64 in [word.text for word in score.heads["sentiment"].words]


# Decisions


def test_probabilities_are_softmax_after_temperature(bundle: Bundle, scorer: OnnxScorer) -> None:
    (batch,) = scorer.prepare(TEXTS[:1])
    logits = scorer.infer(batch, "news").outputs["sentiment.logits"][0].astype(float)
    head = bundle.head("sentiment")
    powers = np.exp(logits / head.temperature)
    found = scorer.score(TEXTS[:1], "news")[0].heads["sentiment"]

    assert found.probability == pytest.approx(powers.max() / powers.sum(), rel=1e-4)
    assert found.label == head.labels[int(logits.argmax())]


@pytest.mark.parametrize(("limit", "decision"), [(0.0, "label"), (1.01, "unsure")])
def test_an_answer_below_the_threshold_is_unsure_and_keeps_its_label(
    bundle: Bundle, limit: float, decision: str
) -> None:
    (score,) = with_head(bundle, "sentiment", unsure_below=limit).score(TEXTS[:1], "news")

    assert score.heads["sentiment"].decision == decision
    assert score.heads["sentiment"].label in bundle.head("sentiment").labels


@pytest.mark.parametrize(("limit", "decision"), [(-1.0, "label"), (1.31, "none")])
def test_a_text_unlike_all_of_the_bank_is_none_of_the_labels(bundle: Bundle, limit: float, decision: str) -> None:
    (score,) = with_head(bundle, "intent", none_below=limit).score(["my card is lost"], "chat")

    assert score.heads["intent"].decision == decision


def test_what_the_bank_has_seen_is_nearer_than_what_it_has_not(bundle: Bundle, scorer: OnnxScorer) -> None:
    from models.interpret import nearest

    bank = runtime.load_banks(bundle)["intent"]
    texts = ["my card is lost please", "Zenith xylophone 4711 %%"]
    known, strange = (nearest(vector(scorer.score([text], "chat")[0])[None], bank)[0] for text in texts)

    assert known > strange


def test_a_language_that_the_bundle_does_not_read_is_said_by_every_head(
    scorer: OnnxScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def unsupported(texts: Sequence[str], given: Sequence[str | None], languages: Sequence[str]) -> list[bool]:
        asked.append((list(texts), list(given), languages))
        return [language == "de" for language in given]

    monkeypatch.setattr(runtime, "unsupported", unsupported)
    german, english = scorer.score(["Acme fällt", "Acme falls today"], "news", ["de", None])

    assert {head.decision for head in german.heads.values()} == {"unsupported"}
    assert "unsupported" not in {head.decision for head in english.heads.values()}
    about = [answer for entity in german.heads["entity"].entities or () for answer in entity.heads.values()]
    assert {answer.decision for answer in about} <= {"unsupported"}
    assert asked == [(["Acme fällt", "Acme falls today"], ["de", None], ("en",))]


# Entities


def test_entities_are_listed_with_their_place_and_what_is_said_of_each(scorer: OnnxScorer) -> None:
    text = "  Acme soars\nas https://t.co/x Bolt sinks"
    read = "Acme soars as Bolt sinks"
    (score,) = scorer.score([text], "news")
    entities = score.heads["entity"].entities

    assert not isinstance(entities, type(UNSET))
    firms = [entity for entity in entities if entity.type == "company"]
    assert [firm.text for firm in firms] == ["Acme", "Bolt"]
    assert all(read[entity.start : entity.end] == entity.text for entity in entities)
    said = [firm.heads["entity_sentiment"] for firm in firms]
    assert [each.label for each in said] == ["positive", "negative"]
    assert all(each.words and each.decision in ("label", "unsure") for each in said)


def test_the_label_of_an_entity_head_is_the_type_of_its_surest(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(TEXTS[:1], "news")
    head = score.heads["entity"]

    assert not isinstance(head.entities, type(UNSET))
    surest = max(head.entities, key=lambda each: each.probability)
    assert (head.label, head.probability, head.decision) == (surest.type, surest.probability, "label")


def test_a_text_without_entities_decides_none(scorer: OnnxScorer) -> None:
    head = scorer.score([""], "news")[0].heads["entity"]

    assert (head.label, head.probability, head.decision, head.entities) == ("", 0.0, "none", [])


def test_a_head_that_finds_no_entities_has_no_list_of_them(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(TEXTS[:1], "news")

    assert score.heads["sentiment"].entities is UNSET
    assert b"entities" not in msgspec.json.encode(score.heads["sentiment"])


# Length


def test_a_long_text_is_cut_and_says_how_much_was_left_out(scorer: OnnxScorer) -> None:
    (score,) = scorer.score(["shares fall " * 400], "news")

    assert (score.tokens, score.truncated) == (128, True)
    assert score.truncated_share == pytest.approx(1 - 126 / 800, abs=0.01)
    whole = scorer.score(TEXTS[:1], "news")[0]
    assert (whole.truncated, whole.truncated_share) == (False, 0.0)


# Cache


def test_the_cache_remembers_up_to_its_size_and_forgets_the_oldest(bundle: Bundle) -> None:
    scorer = OnnxScorer(bundle, threads=1, cache_size=2)
    first, second = scorer.score(["one", "two"], "news")
    assert scorer.score(["one"], "news")[0] is first
    scorer.score(["three"], "news")
    assert len(scorer._cache) == 2
    assert scorer.score(["one"], "news")[0] is first
    assert scorer.score(["two"], "news")[0] is not second


def test_the_cache_knows_repeats_that_differ_in_their_link_and_keeps_heads_and_languages_apart(
    bundle: Bundle,
) -> None:
    scorer = OnnxScorer(bundle, threads=1)
    one, other = scorer.score(["Crude falls https://t.co/a", "Crude  falls https://t.co/b"], "news")

    assert one is other
    assert set(scorer.score(["Crude falls"], "chat")[0].heads) == {"intent"}
    assert scorer.score(["Crude falls"], "news", ["de"])[0] is not one


def test_the_cache_keeps_no_text(bundle: Bundle) -> None:
    scorer = OnnxScorer(bundle, threads=1)
    scorer.score(["Crude falls " * 10_000], "chat")
    ((heads, language, text),) = scorer._cache

    assert (heads, language, len(text)) == (("intent", "embedding"), None, 16)


def test_a_lone_surrogate_is_a_scoring_error_with_a_cache_too(bundle: Bundle) -> None:
    with pytest.raises(ScoringError, match="not Unicode"):
        OnnxScorer(bundle, threads=1).score(["Crude \ud800 falls"], "news")


def test_a_chunk_larger_than_the_cache_still_scores_every_text(bundle: Bundle) -> None:
    scorer = OnnxScorer(bundle, threads=1, cache_size=1)

    assert [score.tokens for score in scorer.score(["a", "b c", "a"], "news")] == [3, 4, 3]


# What goes wrong


def test_no_texts_give_no_scores(scorer: OnnxScorer) -> None:
    assert scorer.score([], "news") == []


@pytest.mark.parametrize("output", ["sentiment.logits", "embedding"])
def test_a_figure_that_is_not_finite_is_a_scoring_error(scorer: OnnxScorer, output: str) -> None:
    batches = scorer.prepare(TEXTS[:1])
    found = scorer.infer(batches[0], "news")
    spoilt = found._replace(outputs={**found.outputs, output: np.full_like(found.outputs[output], np.nan)})
    with pytest.raises(ScoringError, match="not finite"):
        scorer.interpret(batches, [spoilt], "news")


def test_a_failing_processor_is_an_outage_and_no_fault_of_a_text(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = OnnxScorer(bundle, threads=1, cache_size=0)

    def lost(_batch: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(scorer._graphs, "texts", lost)
    with pytest.raises(OutageError, match=r"1 texts by 3 tokens.*device lost"):
        scorer.score(["Ok"], "news")


def test_warming_up_changes_no_score(scorer: OnnxScorer) -> None:
    before = scorer.score(TEXTS, "news")
    scorer.warm_up()

    assert scorer.score(TEXTS, "news") == before


def test_labels_are_read_without_the_model(tiny: Path) -> None:
    assert runtime.labels_of(str(tiny), "chat") == {"intent": ("card_lost", "exchange_rate", "top_up")}
    assert set(runtime.labels_of("stub", "news")) == {"sentiment", "topic"}


def test_the_scorer_of_a_folder_is_the_bundle_in_it(tiny: Path, bundle: Bundle) -> None:
    assert load_scorer(str(tiny), threads=1).bundle == bundle.identity
