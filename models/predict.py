"""What a network or its graph says of a corpus, and one figure for each head. N texts, L labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from models.bundle import EMBEDDING
from models.corpus import READ_TOKENS, Corpus
from models.data import Span, spans_of
from models.interpret import Outputs
from models.recipe import HeadRecipe, Recipe
from models.runner import Runner
from models.spans import relations
from models.targets import Target, tags_of
from models.tokens import Batch, TextTokenizer

Pairs = list[tuple[list[Span], list[Span]]]


@dataclass(slots=True)
class Answers:
    """Logits and true labels of each head over the texts, or spans, that have an answer for it.

    By head of kind label or span: `logits` [N, L], `labels` [N] and `texts`, the position of each one's text.
    By head of kind entity: `tags`, true and found spans of each text, counted in words. `vectors` [N, D] is the
    embedding of every text.
    """

    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    texts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    tags: dict[str, Pairs] = field(default_factory=dict)
    vectors: NDArray[np.float32] | None = None


def answers(
    runner: Runner, corpus: Corpus, recipe: Recipe, tokenizer: TextTokenizer, batch_tokens: int = READ_TOKENS
) -> Answers:
    """Ask every head about the texts that have an answer for it."""
    found = Answers(tags={head.name: [] for head in recipe.heads if head.kind == "entity"})
    parts: dict[str, list[tuple[NDArray[np.float32], list[int], list[int]]]] = {}
    for positions in corpus.by_length(batch_tokens):
        batch = tokenizer.collate(corpus.texts, corpus.encodings, positions)
        outputs = runner.texts(batch)
        mine = [corpus.targets[position] for position in positions]
        for head in recipe.heads:
            if head.kind == "label":
                asked = [
                    (row, target.labels[head.name])
                    for row, target in enumerate(mine)
                    if head.name in target.labels
                ]
                logits = outputs[f"{head.name}.logits"][[row for row, _ in asked]]
            elif head.kind == "span":
                asked, logits = _of_spans(head, runner, outputs, batch, mine)
            elif head.kind == "entity":
                found.tags[head.name] += _of_entities(head, outputs, mine)
                continue
            else:
                _keep_vectors(found, outputs, positions, len(corpus.texts))
                continue
            if asked:
                texts = [int(positions[row]) for row, _ in asked]
                parts.setdefault(head.name, []).append((logits, [label for _, label in asked], texts))
    for name, pieces in parts.items():
        found.logits[name] = np.concatenate([logits for logits, _, _ in pieces])
        found.labels[name] = np.concatenate([np.asarray(labels) for _, labels, _ in pieces])
        found.texts[name] = np.concatenate([np.asarray(texts) for _, _, texts in pieces])
    return found


def headline(found: Answers, corpus: Corpus, recipe: Recipe) -> dict[str, float]:
    """One figure a head: macro-F1 of labels, F1 of entities, mean cosine of vectors to the base's."""
    figures = {
        name: float(f1_score(found.labels[name], logits.argmax(axis=1), average="macro", zero_division=0.0))
        for name, logits in found.logits.items()
    }
    figures |= {name: entity_f1(pairs, recipe.head(name).labels) for name, pairs in found.tags.items() if pairs}
    if found.vectors is not None and corpus.vectors is not None:
        figures[EMBEDDING] = float((found.vectors * corpus.vectors.astype(np.float32)).sum(axis=1).mean())
    return {name: round(value, 4) for name, value in figures.items()}


def entity_f1(pairs: Pairs, types: Sequence[str]) -> float:
    """Micro-F1 of whole spans of these types, as in the CoNLL evaluation."""
    right, true, found = entity_counts(pairs, types)
    return 2 * right.total() / max(1, true.total() + found.total())


def entity_counts(pairs: Pairs, types: Sequence[str]) -> tuple["Counter[str]", "Counter[str]", "Counter[str]"]:
    """Spans found rightly, spans that are there, and spans found, each by type."""
    right: Counter[str] = Counter()
    true: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for wanted, given in pairs:
        true.update(span.type for span in wanted if span.type in types)
        found.update(span.type for span in given if span.type in types)
        right.update(span.type for span in set(wanted) & set(given) if span.type in types)
    return right, true, found


def _of_spans(
    head: HeadRecipe, runner: Runner, outputs: Outputs, batch: Batch, targets: Sequence[Target]
) -> tuple[list[tuple[int, int]], NDArray[np.float32]]:
    spans = [
        (row, span) for row, target in enumerate(targets) if target.judging == head.name for span in target.spans
    ]
    if not spans:
        return [], np.empty((0, len(head.labels)), np.float32)
    rows = [row for row, _ in spans]
    relation = relations(batch.word_numbers, rows, [span[:2] for _, span in spans])
    logits = runner.spans(outputs, np.asarray(rows, np.int64), relation)[f"{head.name}.logits"]
    return [(row, span[2]) for row, span in spans], logits


def _of_entities(head: HeadRecipe, outputs: Outputs, targets: Sequence[Target]) -> Pairs:
    """Of types that a text's file does not mark, nothing is asked."""
    tags = tags_of(head.labels)
    best = outputs[f"{head.name}.logits"].argmax(axis=2)  # [B, T]
    pairs: Pairs = []
    for row, target in enumerate(targets):
        if target.tagging != head.name or target.tags is None or target.open_tags is None or target.asked is None:
            continue
        closed = {tag[2:] for tag, is_open in zip(tags, target.open_tags, strict=True) if not is_open}
        counted = target.asked
        wanted = _spans(target.tags[counted], tags)
        given = _spans(best[row, : len(counted)][counted], tags)
        pairs.append((wanted, [span for span in given if span.type in closed]))
    return pairs


def _spans(numbers: NDArray[np.int64], tags: Sequence[str]) -> list[Span]:
    words = [(position, position + 1) for position in range(len(numbers))]
    return spans_of(words, [tags[number] for number in numbers])


def _keep_vectors(found: Answers, outputs: Outputs, positions: NDArray[np.int64], count: int) -> None:
    vectors = outputs[EMBEDDING]
    if found.vectors is None:
        found.vectors = np.empty((count, vectors.shape[1]), np.float32)
    found.vectors[positions] = vectors
