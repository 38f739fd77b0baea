"""What a training run says of itself on texts that chose nothing: each head, in each precision, and a baseline."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.baseline import baseline
from models.bundle import Head
from models.corpus import Corpus
from models.data import Split
from models.figures import entity_figures, label_figures, scored
from models.interpret import familiarity
from models.predict import Answers, answers
from models.recipe import Recipe
from models.runner import Runner
from models.runtime import DEFAULT_BATCH_TOKENS
from models.tokens import TextTokenizer


def test_figures(
    runners: Mapping[str, Runner],
    heads: tuple[Head, ...],
    banks: Mapping[str, NDArray[np.float32]],
    recipe: Recipe,
    splits: Mapping[Split, Corpus],
    tokenizer: TextTokenizer,
) -> dict[str, Any]:
    """Figures of each head on the test split, by head; those of each runner by its name."""
    said = {
        name: answers(runner, splits["test"], recipe, tokenizer, DEFAULT_BATCH_TOKENS)
        for name, runner in runners.items()
    }
    found: dict[str, Any] = {}
    for head in heads:
        figures = {name: head_figures(head, each, splits["test"], banks) for name, each in said.items()}
        if head.kind == "label":
            figures["baseline"] = _baseline(head.name, splits)
        found[head.name] = figures
    return found


def head_figures(
    head: Head, said: Answers, corpus: Corpus, banks: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """Figures of one head over a corpus."""
    if head.kind == "entity":
        return entity_figures(said.tags.get(head.name, []), head.labels)
    if head.kind == "embedding":
        return _embedding_figures(said, corpus)
    if head.name not in said.logits:
        return {"n": 0}
    chances = scored(said.logits[head.name], said.labels[head.name], head.temperature)
    figures = label_figures(chances, head.labels)
    kept = chances.chances.max(axis=1) >= head.unsure_below
    if head.unsure_below and kept.any():
        figures["sure"] = {
            "share": round(float(kept.mean()), 4),
            "precision": round(float((chances.found == chances.true)[kept].mean()), 4),
        }
    if head.none_below is not None and said.vectors is not None:
        mine = said.vectors[said.texts[head.name]]
        familiar = familiarity(mine, banks[head.name], chances.chances.max(axis=1))
        figures["called_none"] = round(float((familiar < head.none_below).mean()), 4)
    return figures


def _embedding_figures(said: Answers, corpus: Corpus) -> dict[str, Any]:
    if said.vectors is None or corpus.vectors is None:
        return {"n": 0}
    cosine = (said.vectors * corpus.vectors.astype(np.float32)).sum(axis=1)
    low = np.quantile(cosine, 0.05)
    return {
        "n": len(cosine),
        "cosine_to_base": round(float(cosine.mean()), 4),
        "cosine_to_base_5th_percentile": round(float(low), 4),
    }


def _baseline(name: str, splits: Mapping[Split, Corpus]) -> dict[str, Any]:
    rows = {split: _labelled(name, corpus) for split, corpus in splits.items()}
    return baseline(rows["train"], rows["validation"], rows["test"])


def _labelled(name: str, corpus: Corpus) -> tuple[list[str], list[int]]:
    mine = [number for number, target in enumerate(corpus.targets) if name in target.labels]
    return [corpus.texts[number] for number in mine], [corpus.targets[number].labels[name] for number in mine]
