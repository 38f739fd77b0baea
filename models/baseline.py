"""The simple model that a network has to beat: TF-IDF under a linear support vector machine. N texts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from models.figures import macro_f1

_STRENGTHS = (0.1, 0.3, 1.0, 3.0)


# What is read, and the label of each.
Labelled = tuple[Any, Sequence[Any]]


def baseline(train: Labelled, validation: Labelled, test: Labelled) -> dict[str, Any]:
    """Figures on `test` of words and pairs of words, trained on the same rows as the head."""
    strength, model = linear(train, validation, of_words)
    true, found = _array(test[1]), model.predict(test[0])
    return {
        "model": f"TF-IDF 1-2 grams + LinearSVC, C={strength}",
        "accuracy": round(float((true == found).mean()), 4),
        "macro_f1": macro_f1(true, found),
    }


def of_words(strength: float) -> Pipeline:
    """Words and pairs of words of a text under a linear machine."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC(C=strength))


def of_vectors(strength: float) -> LinearSVC:
    """A linear machine over vectors."""
    return LinearSVC(C=strength)


def linear(train: Labelled, validation: Labelled, make: Callable[[float], Any]) -> tuple[float, Any]:
    """A linear model and its strength C, chosen by macro-F1 on validation; without validation rows it is 1."""
    tried: list[tuple[float, float, Any]] = []
    for strength in _STRENGTHS if len(validation[1]) else (1.0,):
        model = make(strength).fit(train[0], train[1])
        figure = macro_f1(np.asarray(validation[1]), model.predict(validation[0])) if len(validation[1]) else 0.0
        tried.append((figure, strength, model))
    _, strength, model = max(tried, key=lambda each: each[0])
    return strength, model


def _array(labels: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(labels, np.int64)
