"""How far an exported graph agrees with the network it came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle import EMBEDDING, Precision
from models.interpret import Outputs
from models.network import Network
from models.runner import Runner
from models.runtime import DEFAULT_BATCH_TOKENS
from models.spans import relations
from models.tokens import Batch, TextTokenizer
from schemas.errors import BundleError

# fp32 differs by rounding only. Of the 32 probes, int8 may lose three labels a head and fp16 one; what goes wrong
# in quantisation (weights per tensor, a saturating processor) costs far more than that. Span heads are asked about
# words that are no entities as a rule, of which they are less sure.
_LEAST_AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.96, "int8": 0.9}
_SPARED_SPANS = 0.05
_LEAST_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97}

Figures = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of a graph with its network over `texts` texts.

    `labels` is the share of equal labels by head (of words for entities, of spans for a span head), `logits` the
    largest absolute difference of any logit, `cosine` the mean cosine of the sentence vectors, `least_cosine` that
    of the worst text.
    """

    texts: int
    labels: dict[str, float]
    logits: float
    cosine: float
    least_cosine: float


def outputs_of(runner: Runner, network: Network, tokenizer: TextTokenizer, texts: Sequence[str]) -> Figures:
    """Logits of every head, [N, L] by text, word or span, and sentence vectors [N, D]; always in the same order.

    Span heads are asked about the first word of each text.
    """
    whole: dict[str, list[NDArray[np.float32]]] = {}
    for batch in tokenizer.batches(texts, DEFAULT_BATCH_TOKENS):
        outputs = runner.texts(batch)
        for name in network.of_text:
            logits = outputs[f"{name}.logits"]
            mine = logits[batch.word_mask > 0] if network.kinds[name] == "entity" else logits
            whole.setdefault(name, []).append(mine)
        if network.of_spans:
            for name, logits in _of_first_words(runner, outputs, batch, network).items():
                whole.setdefault(name, []).append(logits)
        if network.embeds:
            whole.setdefault(EMBEDDING, []).append(outputs[EMBEDDING])
    return {name: np.concatenate(parts) for name, parts in whole.items()}


def agreement(expected: Figures, found: Figures, texts: int) -> Parity:
    """Compare two sets of figures over the same texts, at least one."""
    heads = {name: value for name, value in expected.items() if name != EMBEDDING}
    labels = {
        name: round(float((value.argmax(axis=1) == found[name].argmax(axis=1)).mean()), 4)
        for name, value in heads.items()
    }
    largest = max((float(np.abs(value - found[name]).max()) for name, value in heads.items()), default=0.0)
    cosines = np.ones(1, np.float32)
    if EMBEDDING in expected:
        cosines = (expected[EMBEDDING] * found[EMBEDDING]).sum(axis=1)  # [N]
    return Parity(
        texts, labels, round(largest, 4), round(float(cosines.mean()), 5), round(float(cosines.min()), 5)
    )


def joined(news: Parity, chat: Parity, chat_heads: Sequence[str]) -> Parity:
    """One parity of two, over other texts: of heads that read chat only the labels of the second count."""
    labels = {name: (chat if name in chat_heads else news).labels[name] for name in news.labels}
    return Parity(
        news.texts + chat.texts,
        labels,
        max(news.logits, chat.logits),
        round((news.cosine + chat.cosine) / 2, 5),
        min(news.least_cosine, chat.least_cosine),
    )


def require_parity(parity: Parity, precision: Precision, spans: Sequence[str] = ()) -> None:
    """Refuse a graph that strays too far from its network; `spans` names its span heads.

    Raises:
        BundleError: a head's labels or the sentence vectors agree too little; says which and how much.
    """
    least = _LEAST_AGREEMENT[precision]
    spared = 0.0 if precision == "fp32" else _SPARED_SPANS
    low = {head: share for head, share in parity.labels.items() if share < least - spared * (head in spans)}
    if not low and parity.cosine >= _LEAST_COSINE[precision]:
        return
    shares = ", ".join(f"{head} {share:.3f}" for head, share in parity.labels.items())
    raise BundleError(
        f"The {precision} graph strays too far from the network it came from over {parity.texts} texts: "
        f"equal labels {shares} (at least {_LEAST_AGREEMENT[precision]}), cosine of the sentence vectors "
        f"{parity.cosine:.4f} (at least {_LEAST_COSINE[precision]}); nothing was written. Export as fp32, "
        "or train again."
    )


def _of_first_words(runner: Runner, outputs: Outputs, batch: Batch, network: Network) -> Figures:
    rows = np.flatnonzero(batch.word_mask.any(axis=1))
    if not len(rows):
        return {}
    relation = relations(batch.word_numbers, rows.tolist(), [(0, 1)] * len(rows))
    judged = runner.spans(outputs, rows.astype(np.int64), relation)
    return {name: judged[f"{name}.logits"] for name in network.of_spans}
