"""Figures on texts that chose nothing, and the simple baseline that a network has to beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from models.data import Rows

_STRENGTHS = (0.1, 0.3, 1.0, 3.0)


def figures(labels: Sequence[int], found: Sequence[int] | NDArray[np.int64]) -> dict[str, float]:
    """Macro-F1, accuracy and weighted F1; labels that do not occur on either side do not count."""
    return {
        "macro_f1": round(float(f1_score(labels, found, average="macro", zero_division=0.0)), 4),
        "accuracy": round(float(accuracy_score(labels, found)), 4),
        "weighted_f1": round(float(f1_score(labels, found, average="weighted", zero_division=0.0)), 4),
    }


def baseline(train: Rows, validation: Rows, test: Rows) -> dict[str, float | str]:
    """Figures on `test` of TF-IDF over words and pairs of words under a linear SVM, trained on the same rows.

    Its strength C is chosen by macro-F1 on validation, as the heads choose theirs.
    """
    tried: list[tuple[float, float, Pipeline]] = []
    for strength in _STRENGTHS:
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(C=strength))
        model.fit(train.texts, train.labels)
        macro = figures(validation.labels, model.predict(validation.texts))["macro_f1"]
        tried.append((macro, strength, model))
    _, strength, model = max(tried, key=lambda each: each[0])
    return {
        "model": f"TF-IDF 1-2 grams + LinearSVC, C={strength}",
        **figures(test.labels, model.predict(test.texts)),
    }


def by_label(names: Sequence[str], labels: Sequence[int], found: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """F1 and number of texts of each label that occurs."""
    occurring = sorted(set(labels))
    scores = f1_score(labels, found, labels=occurring, average=None, zero_division=0.0)
    return {
        names[number]: {"f1": round(float(score), 4), "texts": labels.count(number)}
        for number, score in zip(occurring, scores, strict=True)
    }
