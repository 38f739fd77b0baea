"""How good a bundle is on a file of labelled rows, by its serving graphs. N texts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from models import corpus as corpora
from models.bundle import GRAPH, RECIPE, SPAN_GRAPH, TOKENIZER, Bundle, Head, load_bundle
from models.exam import Asked, Exam, read_exam
from models.graded import grade_embedding, grade_entities, grade_labels, grade_spans
from models.graphs import Graphs
from models.language import unsupported
from models.leaks import leaked
from models.paper import Paper
from models.predict import answers
from models.recipe import Recipe
from models.runtime import DEFAULT_BATCH_TOKENS
from models.targets import IGNORED
from models.tokens import TextTokenizer
from schemas.errors import BundleError, UsageError

__all__ = ["KEYS", "Asked", "evaluate"]

# What every evaluation answers, null where it does not apply to the task.
KEYS = (
    *("bundle", "task", "kind", "data", "n", "accuracy", "macro_f1", "weighted_f1", "per_class", "ece"),
    *("coverage_at_95", "auroc_none", "entity_f1", "interval", "labels", "confusion", "decisions", "sure"),
    *("out_of_scope", "leaked", "without_leaked", "baseline", "before", "text_level", "gazetteer", "precision"),
    *("recall", "entities", "cut_off", "not_counted", "few_shot", "cosine_to_base", "unsupported", "truncated"),
)

Said = Callable[[str], None]


def evaluate(asked: Asked, report: Said = lambda _: None) -> dict[str, Any]:
    """Figures of one head on the rows of a file, each with a 95 % bootstrap interval, beside simpler models.

    The graphs, temperature and thresholds are those that serve; the language gate changes no figure but
    `decisions` and `unsupported`. `leaked` counts rows whose text made the bundle, and `without_leaked` leaves
    them out. Shares and figures are between 0 and 1.

    Args:
        asked: what shall be evaluated.
        report: is told what is being done.

    Returns:
        A value for each of `KEYS`, ready for JSON.

    Raises:
        UsageError: file, rows or options are not usable.
        BundleError: the bundle is not usable, or the base is not to be had where it is asked for.
    """
    bundle = load_bundle(asked.bundle)
    head = _head(bundle, asked.task)
    _check_options(asked, head)
    exam = read_exam(asked, head)
    report(f"asking {head.name} about {len(exam.examples)} texts")
    paper = answered(bundle, head, exam)
    grade = {"label": grade_labels, "span": grade_spans, "entity": grade_entities, "embedding": grade_embedding}
    found: dict[str, Any] = dict.fromkeys(KEYS)
    found |= {
        "bundle": bundle.identity,
        "task": head.name,
        "kind": head.kind,
        "data": asked.data.name,
        "labels": list(exam.labels),
        "not_counted": exam.not_counted or None,
        "unsupported": round(float(paper.unsupported.mean()), 4),
        "truncated": round(sum(bool(each.overflowing) for each in paper.corpus.encodings) / len(exam.examples), 4),
    }
    return found | grade[head.kind](asked, paper, report)


def answered(bundle: Bundle, head: Head, exam: Exam) -> Paper:
    """What the bundle's graphs say of the texts."""
    recipe = recipe_of(bundle)
    manifest = bundle.manifest
    tokenizer = TextTokenizer(bundle.path / TOKENIZER, manifest.max_length)
    spans = bundle.path / SPAN_GRAPH if any(each.kind == "span" for each in manifest.heads) else None
    graphs = Graphs(bundle.path / GRAPH, spans, "auto", threads=0)
    text_level = _text_level(bundle, head)
    examples = exam.examples
    if text_level is not None:
        # A head is asked about texts that have a label of it; which one they have is not read.
        dummy = {text_level.name: text_level.labels[0]}
        examples = [replace(example, labels=dummy) for example in examples]
    corpus = corpora.read([examples], recipe, tokenizer)
    _keep_given_words(corpus, exam)
    texts = corpus.texts
    return Paper(
        bundle=bundle,
        recipe=recipe,
        head=head,
        exam=exam,
        tokenizer=tokenizer,
        corpus=corpus,
        said=answers(graphs, corpus, recipe, tokenizer, DEFAULT_BATCH_TOKENS),
        order=np.concatenate(corpus.by_length(DEFAULT_BATCH_TOKENS)),
        leaked=leaked(texts, bundle),
        unsupported=np.array(unsupported(texts, [None] * len(texts), manifest.languages), bool),
        text_level=text_level,
    )


def recipe_of(bundle: Bundle) -> Recipe:
    """The recipe that a bundle was trained by.

    Raises:
        BundleError: this version cannot read it.
    """
    path = bundle.path / RECIPE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path} is no recipe of this version: {error}; train the bundle anew.") from None


def _head(bundle: Bundle, task: str) -> Head:
    names = [head.name for head in bundle.manifest.heads]
    if task not in names:
        raise UsageError(f"The bundle {bundle.identity} has no head {task!r}; it has {', '.join(names)}.")
    return bundle.head(task)


def _check_options(asked: Asked, head: Head) -> None:
    if asked.gazetteers and head.kind != "entity":
        raise UsageError(f"--gazetteer is for entities, and {head.name} is a head of kind {head.kind}.")
    if asked.entity_type and head.kind != "entity":
        raise UsageError(f"--entity-type is for entities, and {head.name} is a head of kind {head.kind}.")
    if asked.before and head.kind not in ("label", "embedding"):
        raise UsageError(
            f"--before knows heads of kind label and embedding, and {head.name} is of kind {head.kind}."
        )
    if asked.before and head.kind == "label" and asked.train is None:
        raise UsageError(
            "--before trains a probe on the base's vectors; give --train DIR, the folder of the data."
        )


def _text_level(bundle: Bundle, head: Head) -> Head | None:
    """For a head that judges spans, the one that says the same of whole texts."""
    if head.kind != "span":
        return None
    heads = (each for each in bundle.manifest.heads if each.kind == "label")
    return next((each for each in heads if set(each.labels) == set(head.labels)), None)


def _keep_given_words(corpus: corpora.Corpus, exam: Exam) -> None:
    """Where a row came in words, ask one tag for each of them, the one at its first token, as CoNLL counts."""
    for example, target, encoding in zip(exam.examples, corpus.targets, corpus.encodings, strict=True):
        if example.words and target.tags is not None:
            begins = {start for start, _ in example.words}
            inside = np.array([start not in begins for start, _ in encoding.offsets])
            target.tags[inside] = IGNORED
