"""Fits the n-grams of a trained network's heads, and how much they shall say beside it. N texts, L labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from models.corpus import Corpus
from models.data import Split
from models.interpret import softmax
from models.losses import label_weights
from models.network import LabelHead, Network
from models.ngrams import PAIRS, Ngrams, pair_places
from models.predict import answers
from models.recipe import HeadRecipe, Recipe
from models.runner import NetworkRunner
from models.tokens import TextTokenizer

# Texts in which a token and a pair must stand at least, to be given weights.
LEAST_TOKEN, LEAST_PAIR = 2, 5
_STRENGTH = 1.0
_ROUNDS = 1000
_TEXTS_AT_ONCE = 256
# Between which factors the two parts are weighed.
_FACTORS = ((0.02, 50.0), (0.0, 50.0))
_SMALLEST = 1e-12
# Each factor has a normal prior, around 1 for the network and 0 for the n-grams, of precision 4 (a deviation of a
# half): a handful of texts cannot hand the answers to either, and of some hundreds it is not felt.
_PRIOR, _PRECISION = np.array([1.0, 0.0]), 4.0

# Splits whose texts say how much n-grams may say, the first one that has any.
_JUDGES: tuple[Split, ...] = ("calibration", "validation")

Numbers = NDArray[np.int64]


def add_ngrams(
    network: Network, recipe: Recipe, splits: Mapping[Split, Corpus], tokenizer: TextTokenizer
) -> dict[str, Any]:
    """Give every head whose recipe asks for it its n-grams; returns what there is to say of that, by head.

    The linear model learns from the training split. Its logits and the network's are added, each with a factor of
    its own: the logarithmic opinion pool (Genest and Zidek 1986) of least log-loss on the calibration split, or
    where the head has no texts there on the validation split. The network was seen at its best on the texts that
    it learned from, so there the factors would be wrong. N-grams that add nothing are left out.
    """
    wanted = [head for head in recipe.heads if head.ngrams]
    for module in network.heads.values():
        if isinstance(module, LabelHead):
            module.ngrams = None
    judges = {head.name: _judge(head.name, splits) for head in wanted}
    heard = {
        split: answers(NetworkRunner(network), splits[split], recipe, tokenizer)
        for split in _JUDGES
        if split in judges.values()
    }
    notes: dict[str, Any] = {}
    for head in wanted:
        found = fit_ngrams(splits["train"], head, int(network.encoder.config.vocab_size))
        split = judges[head.name]
        if found is None or split is None:
            continue
        said = heard[split]
        theirs = _logits(found, splits[split], said.texts[head.name], tokenizer)
        deep, wide = factors(said.logits[head.name], theirs, said.labels[head.name])
        if not wide:
            continue
        # The head's temperature is found afterwards, so only their ratio is kept here, as the files hold it.
        found.scale.copy_((found.scale * (wide / deep)).half().float())
        found.bias.copy_((found.bias * (wide / deep)).half().float())
        _head_of(network, head).ngrams = found.to(next(network.parameters()).device)
        notes[head.name] = {
            "rows": len(found.places),
            "judged_by": split,
            "n": len(said.labels[head.name]),
            "network": round(deep, 4),
            "ngrams": round(wide, 4),
        }
    return notes


def _judge(head: str, splits: Mapping[Split, Corpus]) -> Split | None:
    """The split whose texts say how much a head's n-grams may say; none where there are no such texts."""
    heard = (split for split in _JUDGES if any(head in each.labels for each in splits[split].targets))
    return next(heard, None)


def fit_ngrams(corpus: Corpus, head: HeadRecipe, vocabulary: int) -> Ngrams | None:
    """The linear model of one head: multinomial logistic regression over n-grams, weighed by their rareness.

    Returns:
        None where the corpus has too few texts for anything to be learned.
    """
    mine = [number for number, target in enumerate(corpus.targets) if head.name in target.labels]
    labels = np.array([corpus.targets[number].labels[head.name] for number in mine], np.int64)
    counts = counted(corpus, mine, head.ngrams, vocabulary)
    texts_with = np.bincount(counts.indices, minlength=counts.shape[1])
    least = np.where(np.arange(counts.shape[1]) < vocabulary, LEAST_TOKEN, LEAST_PAIR)
    places = np.flatnonzero(texts_with >= least)
    if not len(places) or len(set(labels.tolist())) < 2:
        return None
    rareness = np.log((1 + len(mine)) / (1 + texts_with[places])) + 1
    weigh = label_weights(np.bincount(labels, minlength=len(head.labels)).tolist(), head.class_weight).numpy()
    model = LogisticRegression(C=_STRENGTH, max_iter=_ROUNDS).fit(
        counts[:, places].multiply(rareness).tocsr(), labels, sample_weight=weigh[labels]
    )
    weights, bias = _by_label(model, len(head.labels))
    return _stored(places, weights * rareness, bias, head, vocabulary)


def counted(corpus: Corpus, positions: list[int], order: int, vocabulary: int) -> csr_matrix:
    """How often each n-gram stands in each text, over the root of how many there are: [N, V + PAIRS]."""
    columns: list[Numbers] = []
    for position in positions:
        encoding = corpus.encodings[position]
        ids = np.array([i for i, word in zip(encoding.ids, encoding.word_ids, strict=True) if word is not None])
        tokens = torch.from_numpy(ids.astype(np.int64))  # [T]
        pairs = pair_places(tokens.unsqueeze(0), vocabulary)[0] if order > 1 else tokens[:0]
        columns.append(torch.cat([tokens, pairs]).numpy())
    sizes = np.array([len(each) for each in columns], np.int64)
    values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shape = (len(positions), vocabulary + (PAIRS if order > 1 else 0))
    found = csr_matrix((values, np.concatenate([*columns, np.empty(0, np.int64)]), starts), shape=shape)
    found.sum_duplicates()
    return found


def factors(network: NDArray[np.float32], ngrams: NDArray[np.float32], labels: Numbers) -> tuple[float, float]:
    """By what to multiply the logits [N, L] of the two, for the least log-loss of their sum and the prior's.

    It is convex.
    """
    rows = np.arange(len(labels))

    def loss(given: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        chances = softmax(given[0] * network + given[1] * ngrams)
        over = chances.copy()
        over[rows, labels] -= 1
        apart = given - _PRIOR
        slope = np.array([(over * network).sum(), (over * ngrams).sum()]) + _PRECISION * apart
        whole = -np.log(chances[rows, labels] + _SMALLEST).sum() + _PRECISION / 2 * (apart @ apart)
        return float(whole) / len(labels), slope / len(labels)

    found = minimize(loss, _PRIOR, jac=True, bounds=_FACTORS, method="L-BFGS-B").x
    return float(found[0]), float(found[1])


def _by_label(model: LogisticRegression, labels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [L, R] and bias [L] of all labels; one that stands in no text is as unlikely as the rarest."""
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    every = np.zeros((labels, weights.shape[1]))
    every[model.classes_] = weights
    biases = np.full(labels, bias.min())
    biases[model.classes_] = bias
    return every, biases


def _stored(
    places: Numbers, weights: NDArray[np.float64], bias: NDArray[np.float64], head: HeadRecipe, vocabulary: int
) -> Ngrams:
    found = Ngrams(len(places), len(head.labels), head.ngrams, vocabulary)
    scale = np.maximum(np.abs(weights).max(axis=1), _SMALLEST) / 127  # [L]
    found.places.copy_(torch.from_numpy(places))
    found.weight.copy_(torch.from_numpy(np.rint(weights.T / scale)))
    found.scale.copy_(torch.from_numpy(scale))
    found.bias.copy_(torch.from_numpy(bias))
    return found


@torch.inference_mode()
def _logits(ngrams: Ngrams, corpus: Corpus, positions: Numbers, tokenizer: TextTokenizer) -> NDArray[np.float32]:
    """What the n-grams say of these texts, in this order: [N, L]."""
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(positions), _TEXTS_AT_ONCE):
        batch = tokenizer.collate(corpus.texts, corpus.encodings, positions[start : start + _TEXTS_AT_ONCE])
        parts.append(ngrams(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.word_mask)).numpy())
    return np.concatenate(parts)


def _head_of(network: Network, head: HeadRecipe) -> LabelHead:
    found = network.heads[head.name]
    assert isinstance(found, LabelHead)
    return found
