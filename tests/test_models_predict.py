"""What heads say of a corpus, and the figure that is made of it."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("sklearn", reason="needs scikit-learn: install salience[train]")

from models.bundle import TOKENIZER, find_bundle
from models.corpus import Corpus, read
from models.data import Example, Span
from models.interpret import Outputs
from models.predict import answers, entity_counts, entity_f1, headline
from models.recipe import DataRecipe, HeadRecipe, Recipe
from models.tokens import Batch, TextTokenizer

pytestmark = pytest.mark.train
RECIPE = Recipe(
    name="r",
    heads=(
        HeadRecipe(name="mood", kind="label", labels=("a", "b", "c")),
        HeadRecipe(name="entity", kind="entity", labels=("company", "person")),
        HeadRecipe(name="said", kind="span", spans="entity", labels=("bad", "good")),
        HeadRecipe(name="embedding", kind="embedding"),
    ),
    data=(DataRecipe(path="a", heads=("mood",)),),
)


class Says:
    """A runner that calls every word a person, and names the label and the vector after the number of words."""

    def texts(self, batch: Batch) -> Outputs:
        counts = batch.word_numbers.max(axis=1) + 1
        tags = np.zeros((*batch.input_ids.shape, 5), np.float32)
        tags[..., 3] = 1.0
        return {
            "mood.logits": np.eye(3, dtype=np.float32)[counts % 3],
            "entity.logits": tags,
            "said.states": np.zeros((*batch.input_ids.shape, 1), np.float32),
            "embedding": np.stack([np.cos(counts), np.sin(counts)], axis=1).astype(np.float32),
        }

    def spans(self, outputs: Outputs, rows: np.ndarray, relation: np.ndarray) -> Outputs:
        """Good where the span is its text's first word."""
        first = relation[:, 1] == 1
        return {"said.logits": np.eye(2, dtype=np.float32)[first.astype(int)]}


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(find_bundle("") / TOKENIZER, 128)


def corpus_of(tokenizer: TextTokenizer, *examples: Example) -> Corpus:
    return read([examples], RECIPE, tokenizer)


@pytest.mark.parametrize("batch_tokens", [1, 20, 1_000])
def test_each_answer_stands_beside_its_text_whatever_the_batches(
    tokenizer: TextTokenizer, batch_tokens: int
) -> None:
    counts = [5, 1, 9, 2, 4, 1]
    corpus = corpus_of(tokenizer, *(Example("word " * n, {"mood": "abc"[n % 3]}) for n in counts), Example("none"))

    found = answers(Says(), corpus, RECIPE, tokenizer, batch_tokens)

    order = found.texts["mood"].tolist()
    assert sorted(order) == list(range(6))
    assert found.labels["mood"].tolist() == [counts[text] % 3 for text in order]
    assert found.logits["mood"].argmax(axis=1).tolist() == found.labels["mood"].tolist()
    assert found.vectors is not None
    assert found.vectors[:, 0] == pytest.approx(np.cos([*counts, 1]))
    assert headline(found, corpus, RECIPE) == {"mood": 1.0}


def test_every_span_is_asked_about_in_its_own_text(tokenizer: TextTokenizer) -> None:
    spans = (Span(0, 4, "company", "good"), Span(9, 13, "company", "bad"))
    corpus = corpus_of(tokenizer, Example("word"), Example("Acme and Bolt", spans=spans, judging="said"))

    found = answers(Says(), corpus, RECIPE, tokenizer)

    assert found.texts["said"].tolist() == [1, 1]
    assert found.logits["said"].argmax(axis=1).tolist() == found.labels["said"].tolist() == [1, 0]


def test_of_types_that_a_file_does_not_mark_nothing_is_asked(tokenizer: TextTokenizer) -> None:
    partly = Example("Ann met Bob", tagging="entity", annotated=("company",))
    whole = Example("Ann met Bob", spans=(Span(0, 3, "person"),), tagging="entity")
    corpus = corpus_of(tokenizer, partly, whole)

    pairs = answers(Says(), corpus, RECIPE, tokenizer).tags["entity"]

    assert pairs[0] == ([], [])
    assert pairs[1] == ([Span(0, 1, "person")], [Span(at, at + 1, "person") for at in range(3)])


def test_only_whole_spans_of_the_right_type_count() -> None:
    true = [Span(0, 2, "company"), Span(3, 4, "person")]
    found = [Span(0, 2, "company"), Span(3, 5, "person"), Span(6, 7, "company")]

    right, there, given = entity_counts([(true, found)], ("company", "person"))

    assert (right.total(), there.total(), given.total()) == (1, 2, 3)
    assert entity_f1([(true, found)], ("company", "person")) == pytest.approx(2 / 5)
    assert entity_f1([(true, found)], ("company",)) == pytest.approx(2 / 3)


def test_a_corpus_without_texts_has_no_figures(tokenizer: TextTokenizer) -> None:
    corpus = corpus_of(tokenizer)

    assert headline(answers(Says(), corpus, RECIPE, tokenizer), corpus, RECIPE) == {}


def test_a_part_of_a_corpus_keeps_its_vectors(tokenizer: TextTokenizer) -> None:
    corpus = corpus_of(tokenizer, Example("a"), Example("b"), Example("c"))
    corpus.vectors = np.arange(6, dtype=np.float16).reshape(3, 2)

    part = corpus.of([2, 0])

    assert (part.texts, part.files) == (["c", "a"], [2])
    assert part.vectors is not None
    assert part.vectors.tolist() == [[4, 5], [0, 1]]
