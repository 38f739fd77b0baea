"""The serving model: texts in, scores out, through one ONNX graph; needs no torch."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from models.bundle import GRAPH, SPAN_GRAPH, TOKENIZER, Bundle, load_bundle
from models.entities import Found, find_entities
from models.graphs import Graphs
from models.interpret import Inferred, Interpreter, Outputs, softmax
from models.language import unsupported
from models.scorer import Countable, Scorer
from models.spans import relations
from models.stub import StubScorer
from models.text import normalise
from models.tokens import Batch, TextTokenizer
from schemas.errors import BundleError, ConfigError, OutageError
from schemas.labels import STREAMS
from schemas.scores import Score

# Padded tokens a batch. Measured on two cores with tweets in chunks of 64 and 256: 256 to 1024 differ by less
# than the noise, 2048 costs a tenth to a fifth, for its activations outgrow the processor's cache.
DEFAULT_BATCH_TOKENS = 512
DEFAULT_CACHE_SIZE = 10_000  # texts; a score of a market bundle takes about 3 kB
DEFAULT_TOP_WORDS = 5

# Heads, the language as given, and a hash of the text: a text may be a megabyte, its score is 3 kB.
CacheKey = tuple[tuple[str, ...], str | None, bytes]


class OnnxScorer:
    """Scores texts with a bundle; see `models.scorer.Scorer` for the contract.

    The steps of `score` can be called one by one: prepare, infer, interpret. One thread at a time.

    Args:
        bundle: a bundle that was loaded, hence checked.
        provider: "auto", "cpu" or "cuda".
        threads: threads of one inference on the CPU, 0 for the library's default.
        batch_tokens: most padded tokens a batch, unless one text alone is longer.
        cache_size: texts whose scores are remembered, 0 for none. A cached score is the one its text
            got first.
        top_words: words with weights that each head returns.

    Raises:
        ConfigError: a setting is not usable, or ONNX Runtime or cuda is not to be had.
        BundleError: a file of the bundle is not usable.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "auto",
        threads: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        cache_size: int = DEFAULT_CACHE_SIZE,
        top_words: int = DEFAULT_TOP_WORDS,
    ) -> None:
        _refuse_below(threads=(threads, 0), cache_size=(cache_size, 0))
        _refuse_below(batch_tokens=(batch_tokens, 1), top_words=(top_words, 0))
        self._bundle = bundle
        self._tokenizer = TextTokenizer(bundle.path / TOKENIZER, bundle.manifest.max_length)
        heads = bundle.manifest.heads
        self._entity_heads = [head for head in heads if head.kind == "entity"]
        spans = bundle.path / SPAN_GRAPH if any(head.kind == "span" for head in heads) else None
        self._graphs = Graphs(bundle.path / GRAPH, spans, provider, threads)
        self._interpreter = Interpreter(bundle, load_banks(bundle), top_words)
        self._batch_tokens = batch_tokens
        self._cache_size = cache_size
        self._cache: OrderedDict[CacheKey, Score] = OrderedDict()

    @property
    def bundle(self) -> str:
        """Identity of the bundle: its name, "@", and 12 hex digits of its manifest's sha256."""
        return self._bundle.identity

    @property
    def providers(self) -> tuple[str, ...]:
        """The ONNX Runtime providers in force, first the one that is preferred."""
        return self._graphs.providers

    def heads(self, stream: str) -> tuple[str, ...]:
        """Heads that answer for a stream's texts; none for a stream the bundle does not know."""
        return tuple(self.labels(stream))

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        """Labels of each head that answers for a stream's texts, in head order."""
        return self._bundle.labels(stream)

    def countable(self, stream: str) -> dict[str, Countable]:
        """Heads that name one label of a text or of an entity, with what they confuse."""
        return self._bundle.countable(stream)

    def score(
        self, texts: Sequence[str], stream: str, languages: Sequence[str | None] | None = None
    ) -> list[Score]:
        """Score texts in the order given; identical texts are scored once if there is a cache.

        Args:
            languages: of each text as its event gives it (BCP 47), None where it is to be found out.

        Raises:
            ScoringError: a text cannot be scored; the caller bisects.
            OutageError: inference itself failed, which is no text's fault.
        """
        normalised = [normalise(text) for text in texts]
        given = [None] * len(texts) if languages is None else list(languages)
        if not self._cache_size:
            return self._score(normalised, stream, given)
        heads = self._bundle.answering(stream)
        keys: list[CacheKey] = [
            (heads, language, _digest(text)) for text, language in zip(normalised, given, strict=True)
        ]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        new = {key: text for key, text in zip(keys, normalised, strict=True) if key not in found}
        scores = self._score(list(new.values()), stream, [language for _, language, _ in new])
        found.update(zip(new, scores, strict=True))
        for key in keys:
            self._cache[key] = found[key]
            self._cache.move_to_end(key)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return [found[key] for key in keys]

    def prepare(self, texts: Sequence[str]) -> list[Batch]:
        """Normalise, tokenise, truncate, sort by length and cut into batches.

        Raises:
            ScoringError: a text cannot be tokenised.
        """
        return self._tokenizer.batches([normalise(text) for text in texts], self._batch_tokens)

    def infer(self, batch: Batch, stream: str) -> Inferred:
        """Run the graphs on one batch: the texts, and then the entities that were found in them.

        Raises:
            OutageError: the processor failed (out of memory, device lost).
        """
        try:
            outputs = self._graphs.texts(batch)
            entities = {
                head.name: find_entities(batch, softmax(outputs[f"{head.name}.logits"]), head.tags)
                for head in self._entity_heads
                if stream in head.streams
            }
            return Inferred(outputs, entities, self._judged(batch, outputs, entities, stream))
        except Exception as error:  # the library raises one class per status code, with no common base
            rows, tokens = batch.input_ids.shape
            raise OutageError(
                f"Inference failed on a batch of {rows} texts by {tokens} tokens with {self.providers[0]}: "
                f"{error}; if memory is short, lower the padded tokens a batch."
            ) from error

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """The sentence vectors [B, D] of a batch, and nothing of the heads."""
        return self._graphs.embed(batch)

    def _judged(
        self, batch: Batch, outputs: Outputs, entities: Mapping[str, list[Found]], stream: str
    ) -> dict[str, Outputs]:
        judged: dict[str, Outputs] = {}
        for head in self._bundle.manifest.heads:
            found = entities.get(head.spans, []) if head.kind == "span" and stream in head.streams else []
            if found:
                rows = [each.row for each in found]
                relation = relations(batch.word_numbers, rows, [(each.first, each.last) for each in found])
                judged[head.name] = self._graphs.spans(outputs, np.array(rows, np.int64), relation)
        return judged

    def interpret(
        self,
        batches: Sequence[Batch],
        inferred: Sequence[Inferred],
        stream: str,
        languages: Sequence[str | None] | None = None,
    ) -> list[Score]:
        """Turn what the graphs gave into scores, in the order in which the texts were given to `prepare`.

        Raises:
            ScoringError: the model gave a figure that is not finite.
        """
        scores: list[Score | None] = [None] * sum(len(batch.texts) for batch in batches)
        for batch, found in zip(batches, inferred, strict=True):
            positions = batch.positions.tolist()
            given = [None if languages is None else languages[position] for position in positions]
            missed = unsupported(batch.texts, given, self._bundle.manifest.languages)
            results = self._interpreter.scores(batch, found, stream, missed)
            for position, score in zip(positions, results, strict=True):
                scores[position] = score
        return [score for score in scores if score is not None]

    def warm_up(self) -> None:
        """Run a full batch of short and of long texts, so that memory is laid out before the first event."""
        longest = self._bundle.manifest.max_length
        for words in (4, longest // 4, longest):
            rows = max(1, self._batch_tokens // (words + 2))
            for batch in self.prepare([" ".join(["word"] * words)] * rows):
                self.infer(batch, STREAMS[0])

    def _score(self, normalised: list[str], stream: str, languages: Sequence[str | None]) -> list[Score]:
        batches = self._tokenizer.batches(normalised, self._batch_tokens)
        return self.interpret(batches, [self.infer(batch, stream) for batch in batches], stream, languages)


def load_banks(bundle: Bundle) -> dict[str, NDArray[np.float32]]:
    """By head, the normalised vectors [K, D] that it holds texts against to see whether it knows their like.

    Raises:
        BundleError: a bank is no array of vectors.
    """
    banks: dict[str, NDArray[np.float32]] = {}
    for head in bundle.manifest.heads:
        if head.none_below is None:
            continue
        path = bundle.path / head.bank
        try:
            vectors = np.load(path, allow_pickle=False).astype(np.float32)
            banks[head.name] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        except (ValueError, OSError) as error:
            raise BundleError(f"{path} is no bank of vectors: {error}; copy the bundle again.") from error
    return banks


def labels_of(bundle: str, stream: str) -> dict[str, tuple[str, ...]]:
    """Labels of each head for a stream, those for entities included, read without loading the model.

    Raises:
        BundleError: as `load_bundle`.
    """
    if bundle == "stub":
        return StubScorer().labels(stream)
    found = load_bundle(bundle)
    return {**found.labels(stream), **{name: each.labels for name, each in found.countable(stream).items()}}


def load_scorer(
    bundle: str = "",
    *,
    provider: str = "auto",
    threads: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    cache_size: int = DEFAULT_CACHE_SIZE,
    top_words: int = DEFAULT_TOP_WORDS,
) -> Scorer:
    """The scorer of a bundle.

    Args:
        bundle: "" for the bundle that comes with Salience, "stub" for the one without a model, or a folder.
        provider, threads, batch_tokens, cache_size, top_words: as `OnnxScorer`; the stub heeds none of them.

    Raises:
        BundleError: the bundle is missing, altered, or of another version.
        ConfigError: a setting is not usable, or ONNX Runtime or cuda is not to be had.
    """
    if bundle == "stub":
        return StubScorer()
    return OnnxScorer(
        load_bundle(bundle),
        provider=provider,
        threads=threads,
        batch_tokens=batch_tokens,
        cache_size=cache_size,
        top_words=top_words,
    )


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _refuse_below(**settings: tuple[int, int]) -> None:
    for name, (value, least) in settings.items():
        if value < least:
            raise ConfigError(f"The model setting {name} is {value}, and must be at least {least}.")
