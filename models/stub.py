"""A scorer without a model: its answers follow from a hash of the text, for tests and benchmarks."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from zlib import crc32

from models.interpret import WORD_CHARACTERS
from models.scorer import Countable
from schemas.errors import ScoringError
from schemas.labels import SENTIMENTS, TOPICS
from schemas.scores import HeadResult, Score, Word

STUB_BUNDLE = "stub@000000000001"
WIDTH = 384
# Powers of two: the sums that tests write down are exact.
WEIGHTS = (0.5, 0.25, 0.125)

# A vector is a window into one table, which is some hundred times cheaper than drawing 384 bytes a text.
_WINDOWS = 1 << 16
_LABELS = {"sentiment": SENTIMENTS, "topic": TOPICS}
_HEADS: dict[str, tuple[str, ...]] = {"news": ("sentiment", "topic"), "behavior": ("sentiment", "topic")}


class StubScorer:
    """The test double of `models.scorer.Scorer`, shipped so that a deployment can be tried without a model.

    Labels, probabilities (0.5 to 1), and the embedding (384 bytes, norm 1 after scaling) depend on the text
    alone, never on the batch, the process or the platform. Words are the first three of the text.

    Args:
        refuse: a text that contains this raises ScoringError, to try how a caller finds the culprit.
    """

    def __init__(self, refuse: str = "") -> None:
        self._refuse = refuse
        self._table, self._scales = _embedding_table()

    @property
    def bundle(self) -> str:
        """A constant: the stub's answers are frozen under this name."""
        return STUB_BUNDLE

    def heads(self, stream: str) -> tuple[str, ...]:
        """Sentiment and topic for news and behavior, none for any other stream."""
        return _HEADS.get(stream, ())

    def labels(self, stream: str) -> dict[str, tuple[str, ...]]:
        """Labels of the heads of a stream."""
        return {name: _LABELS[name] for name in self.heads(stream)}

    def countable(self, stream: str) -> dict[str, Countable]:
        """All heads of a stream; what they confuse is not known."""
        return {name: Countable(labels) for name, labels in self.labels(stream).items()}

    def score(
        self, texts: Sequence[str], stream: str, languages: Sequence[str | None] | None = None
    ) -> list[Score]:
        """Score texts in the order given; the stub reads every language.

        Raises:
            ScoringError: a text contains what this stub was told to refuse; names its position, not its text.
        """
        if self._refuse:
            for position, text in enumerate(texts):
                if self._refuse in text:
                    raise ScoringError(
                        f"Text {position + 1} of {len(texts)} contains {self._refuse!r}, which this stub "
                        "scorer was told to refuse; leave that text out."
                    )
        labelled = bool(self.heads(stream))
        return [self._score(text, labelled) for text in texts]

    def warm_up(self) -> None:
        """Nothing to warm."""

    def _score(self, text: str, labelled: bool) -> Score:
        number = crc32(text.encode("utf-8", "surrogatepass"))
        window = number % _WINDOWS
        words = text.split()
        heads: dict[str, HeadResult] = {}
        if labelled:
            top = [Word(word[:WORD_CHARACTERS], weight) for word, weight in zip(words, WEIGHTS, strict=False)]
            for name, labels in _LABELS.items():
                # A step of the multiplicative hash of Knuth (1973), so that heads do not agree by accident.
                number = (number * 2654435761 + 1) & 0xFFFFFFFF
                label = labels[(number >> 16) % len(labels)]
                heads[name] = HeadResult(label, 0.5 + (number & 0xFFFF) / 131072, "label", top)
        return Score(
            heads, self._table[window : window + WIDTH], self._scales[window], len(words) + 2, truncated=False
        )


def _embedding_table() -> tuple[bytes, list[float]]:
    """Bytes that read as int8 in -127..127, and for each window the scale that gives its vector norm 1."""
    size = _WINDOWS + WIDTH
    drawn = b"".join(blake2b(block.to_bytes(4, "big")).digest() for block in range(size // 64 + 1))[:size]
    table = drawn.replace(b"\x80", b"\x81")
    squares = [(byte - 256 if byte > 127 else byte) ** 2 for byte in table]
    sums = [0, *accumulate(squares)]
    return table, [(sums[start + WIDTH] - sums[start]) ** -0.5 for start in range(_WINDOWS)]
