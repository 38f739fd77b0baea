"""The scorer without a model."""

import subprocess
import sys

import numpy as np
import pytest

from models.runtime import load_scorer
from models.stub import StubScorer
from schemas.errors import ScoringError
from schemas.labels import SENTIMENTS, TOPICS

TEXTS = ["Beyond Meat cuts its outlook", "", "Crude settles higher", "\ud800 lone", "ok"]


def test_a_text_scores_the_same_alone_and_in_any_batch() -> None:
    stub = StubScorer()
    together = stub.score(TEXTS, "news")
    assert together == [stub.score([text], "news")[0] for text in TEXTS]
    assert together == stub.score(TEXTS[::-1], "news")[::-1]


def test_another_process_gives_the_same_scores() -> None:
    program = "from models.stub import StubScorer; print(StubScorer().score(['Crude settles higher'], 'news'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(StubScorer().score(["Crude settles higher"], "news"))


def test_labels_come_from_the_label_sets_and_all_of_them_occur() -> None:
    scores = StubScorer().score([f"text {number}" for number in range(2_000)], "behavior")
    assert {score.heads["sentiment"].label for score in scores} == set(SENTIMENTS)
    assert {score.heads["topic"].label for score in scores} == set(TOPICS)
    assert all(0.5 <= head.probability < 1 for score in scores for head in score.heads.values())


def test_the_stub_reads_every_language_and_says_the_same_in_each() -> None:
    assert StubScorer().score(TEXTS[:2], "news", ["de", None]) == StubScorer().score(TEXTS[:2], "news")


def test_chat_gets_an_embedding_and_no_head() -> None:
    (score,) = StubScorer().score(["Where is my card?"], "chat")
    assert score.heads == {}
    assert len(score.embedding) == 384
    assert StubScorer().heads("chat") == ()


def test_embeddings_have_norm_one_and_tell_texts_apart() -> None:
    scores = StubScorer().score([f"text {number}" for number in range(200)], "news")
    vectors = np.stack([np.frombuffer(score.embedding, np.int8) * score.scale for score in scores])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert np.abs(vectors @ vectors.T - np.eye(200)).max() < 0.5


def test_words_are_the_first_of_the_text_and_weigh_at_most_one() -> None:
    (score,) = StubScorer().score(["one two three four five"], "news")
    words = score.heads["topic"].words
    assert [word.text for word in words] == ["one", "two", "three"]
    assert sum(word.weight for word in words) <= 1


def test_a_word_without_end_is_cut_to_64_characters() -> None:
    (score,) = StubScorer().score(["a" * 100_000 + " b"], "news")
    assert [word.text for word in score.heads["topic"].words] == ["a" * 64, "b"]


def test_a_refused_text_raises_and_is_not_quoted() -> None:
    stub = StubScorer(refuse="poison")
    assert len(stub.score(["fine"], "news")) == 1
    with pytest.raises(ScoringError, match="Text 2 of 2") as caught:
        stub.score(["fine", "some poison of Ms Jones"], "news")
    assert "Jones" not in str(caught.value)


def test_the_factory_gives_the_stub_under_a_constant_identity() -> None:
    assert load_scorer("stub").bundle == StubScorer("other").bundle == "stub@000000000001"
