"""A bundle's answers to an exam, before they are graded. N texts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, Head
from models.corpus import Corpus
from models.exam import Exam
from models.predict import Answers
from models.recipe import Recipe
from models.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class Paper:
    """The questions of an exam with what the bundle said of them.

    `order` [N] is the order in which texts were asked, `leaked` and `unsupported` [N] are by text. `text_level` is
    the head that says of whole texts what this one says of spans.
    """

    bundle: Bundle
    recipe: Recipe
    head: Head
    exam: Exam
    tokenizer: TextTokenizer
    corpus: Corpus
    said: Answers
    order: NDArray[np.int64]
    leaked: NDArray[np.bool_]
    unsupported: NDArray[np.bool_]
    text_level: Head | None
