"""The serving model: texts in, scores out, through one ONNX graph; needs no torch."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from models.bundle import Bundle, load_bundle
from models.interpret import Interpreter, Outputs
from models.scorer import Scorer
from models.session import open_session
from models.stub import StubScorer
from models.text import normalise
from models.tokens import Batch, TextTokenizer, feed
from schemas.errors import ConfigError, OutageError
from schemas.scores import Score

# Padded tokens a batch. Measured on two cores with tweets in chunks of 64 and 256: 256 to 1024 differ by less
# than the noise, 2048 costs a tenth to a fifth, for its activations outgrow the processor's cache.
DEFAULT_BATCH_TOKENS = 512
DEFAULT_CACHE_SIZE = 10_000  # texts; a score of a market bundle takes about 3 kB
DEFAULT_TOP_WORDS = 5

# Heads, whether there is an embedding, and a hash of the text: a text may be a megabyte, its score is 3 kB.
CacheKey = tuple[tuple[str, ...], bool, bytes]


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
        self._tokenizer = TextTokenizer(bundle.path / "tokenizer.json", bundle.manifest.max_length)
        self._session = open_session(bundle.path / "model.onnx", provider, threads)
        self._names = [output.name for output in self._session.get_outputs()]
        self._interpreter = Interpreter(bundle, top_words)
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
        return tuple(self._session.get_providers())

    def heads(self, stream: str) -> tuple[str, ...]:
        """Classification heads that apply to a stream; none for a stream the bundle does not know."""
        return self._bundle.heads(stream)

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        """Labels of each head that applies to a stream, in head order."""
        return {
            head.name: tuple(head.labels)
            for head in self._bundle.manifest.heads
            if head.labels and stream in head.streams
        }

    def score(self, texts: Sequence[str], stream: str) -> list[Score]:
        """Score texts in the order given; identical texts are scored once if there is a cache.

        Raises:
            ScoringError: a text cannot be scored; the caller bisects.
            OutageError: inference itself failed, which is no text's fault.
        """
        normalised = [normalise(text) for text in texts]
        if not self._cache_size:
            return self._score(normalised, stream)
        head = (self.heads(stream), self._bundle.embeds(stream))
        keys: list[CacheKey] = [(*head, _digest(text)) for text in normalised]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        new = {key: text for key, text in zip(keys, normalised, strict=True) if key not in found}
        found.update(zip(new, self._score(list(new.values()), stream), strict=True))
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

    def infer(self, batch: Batch) -> Outputs:
        """Run the graph on one batch: `<head>.logits` [B, L], `<head>.alpha` [B, T], `embedding` [B, D].

        Raises:
            OutageError: the processor failed (out of memory, device lost).
        """
        try:
            return dict(zip(self._names, self._session.run(self._names, feed(batch)), strict=True))
        except Exception as error:  # the library raises one class per status code, with no common base
            rows, tokens = batch.input_ids.shape
            raise OutageError(
                f"Inference failed on a batch of {rows} texts by {tokens} tokens with {self.providers[0]}: "
                f"{error}; if memory is short, lower the padded tokens a batch."
            ) from error

    def interpret(self, batches: Sequence[Batch], outputs: Sequence[Outputs], stream: str) -> list[Score]:
        """Turn outputs into scores, in the order in which the texts were given to `prepare`.

        Raises:
            ScoringError: the model gave a figure that is not finite.
        """
        scores: list[Score | None] = [None] * sum(len(batch.texts) for batch in batches)
        for batch, output in zip(batches, outputs, strict=True):
            results = self._interpreter.scores(batch, output, stream)
            for position, score in zip(batch.positions.tolist(), results, strict=True):
                scores[position] = score
        return [score for score in scores if score is not None]

    def warm_up(self) -> None:
        """Run a full batch of short and of long texts, so that memory is laid out before the first event."""
        longest = self._bundle.manifest.max_length
        for words in (4, longest // 4, longest):
            rows = max(1, self._batch_tokens // (words + 2))
            for batch in self.prepare([" ".join(["word"] * words)] * rows):
                self.infer(batch)

    def _score(self, normalised: list[str], stream: str) -> list[Score]:
        batches = self._tokenizer.batches(normalised, self._batch_tokens)
        return self.interpret(batches, [self.infer(batch) for batch in batches], stream)


def labels_of(bundle: str, stream: str) -> dict[str, tuple[str, ...]]:
    """Labels of each head for a stream, read from the bundle's manifest without loading its model.

    Raises:
        BundleError: as `load_bundle`.
    """
    if bundle == "stub":
        return StubScorer().labels(stream)
    heads = load_bundle(bundle).manifest.heads
    return {head.name: tuple(head.labels) for head in heads if head.labels and stream in head.streams}


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
