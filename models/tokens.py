"""From texts to padded batches of token numbers, cut so that little is spent on padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.text import word_shape
from schemas.errors import BundleError, ScoringError

# A megabyte of text is not tokenised for the sake of its first few hundred words: 64 characters a token
# is ten times the average of English.
_CHARACTERS_A_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of similar length, padded to the longest; B texts, T tokens.

    `positions` says where each stood in what was given. `word_numbers` is -1 at special tokens and padding,
    else the number of the word that the token is a piece of; `word_mask` is 1 where it is not -1.
    """

    positions: NDArray[np.int64]  # [B]
    texts: list[str]
    encodings: list[Encoding]
    truncated: list[bool]
    input_ids: NDArray[np.int64]  # [B, T]
    attention_mask: NDArray[np.int64]  # [B, T]
    word_mask: NDArray[np.int64]  # [B, T]
    word_numbers: NDArray[np.int32]  # [B, T]


def feed(batch: Batch, names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The inputs that a graph names, each [B, T]; shapes of words are worked out only where it reads them."""
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "word_mask": batch.word_mask,
    }
    return {name: word_shapes(batch) if name == "word_shapes" else inputs[name] for name in names}


def word_shapes(batch: Batch) -> NDArray[np.int64]:
    """The shape of the word that each token is a piece of (`models.text.word_shape`), 0 outside words: [B, T]."""
    shapes = np.zeros_like(batch.input_ids)
    for row, (text, encoding) in enumerate(zip(batch.texts, batch.encodings, strict=True)):
        spans = words_of(encoding)
        found = [word_shape(text[start:end], start > 0 and text[start - 1] != " ") for start, end in spans]
        numbers = batch.word_numbers[row]
        worded = numbers >= 0
        shapes[row, worded] = np.array([0, *found])[numbers[worded] + 1]
    return shapes


def words_of(encoding: Encoding) -> list[tuple[int, int]]:
    """Where each word lies in its text, [start, end) in characters, in order."""
    spans: list[tuple[int, int]] = []
    for number, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if number is None:
            continue
        if number == len(spans):
            spans.append((start, end))
        else:
            spans[number] = (spans[number][0], end)
    return spans


class TextTokenizer:
    """The tokenizer of a bundle: truncates, knows which tokens are words, never pads by itself.

    Args:
        path: the bundle's tokenizer.json.
        max_length: tokens a text, special tokens included.

    Raises:
        BundleError: the file is no tokenizer.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{path} is no tokenizer file: {error}; copy the bundle again.") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        # A text that spells "[SEP]" contains a word, not the end of a sentence.
        self._tokenizer.encode_special_tokens = True
        self._characters = max_length * _CHARACTERS_A_TOKEN
        padding = self._tokenizer.token_to_id("[PAD]")
        self._padding = self._tokenizer.token_to_id("<pad>") if padding is None else padding

    @property
    def mask(self) -> int | None:
        """The number of the token that stands for a hidden word; None where the base knows none."""
        found = self._tokenizer.token_to_id("[MASK]")
        return self._tokenizer.token_to_id("<mask>") if found is None else found

    def batches(self, texts: Sequence[str], batch_tokens: int) -> list[Batch]:
        """Tokenise, sort by length and cut so that rows times longest row stays within `batch_tokens`.

        A text longer than `batch_tokens` is a batch of its own.

        Raises:
            ScoringError: a text cannot be encoded (lone surrogates).
        """
        if not texts:
            return []
        encodings = self.encode(texts)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        order = np.argsort(lengths, kind="stable")
        cuts = cut_by_padded_tokens(lengths[order], batch_tokens)
        return [self.collate(texts, encodings, order[start:stop]) for start, stop in cuts]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenise and truncate.

        Raises:
            ScoringError: a text cannot be encoded (lone surrogates).
        """
        try:
            return self._tokenizer.encode_batch([text[: self._characters] for text in texts])
        except (TypeError, ValueError) as error:
            raise ScoringError(
                f"The tokenizer refuses one of {len(texts)} texts ({error}); replace what is not Unicode."
            ) from error

    def collate(self, texts: Sequence[str], encodings: Sequence[Encoding], positions: NDArray[np.int64]) -> Batch:
        """The texts at `positions` as one padded batch."""
        chosen = [encodings[position] for position in positions]
        shape = (len(chosen), max(1, max(map(len, chosen))))
        ids = np.full(shape, self._padding or 0, np.int64)
        attention = np.zeros(shape, np.int64)
        words = np.full(shape, -1, np.int32)
        for row, encoding in enumerate(chosen):
            length = len(encoding)
            ids[row, :length] = encoding.ids
            attention[row, :length] = 1
            words[row, :length] = [-1 if word is None else word for word in encoding.word_ids]
        cut = self._characters
        chosen_texts = [texts[position] for position in positions]
        truncated = [
            bool(encoding.overflowing) or len(text) > cut
            for encoding, text in zip(chosen, chosen_texts, strict=True)
        ]
        word_mask = (words >= 0).astype(np.int64)
        return Batch(positions, chosen_texts, chosen, truncated, ids, attention, word_mask, words)


def cut_by_padded_tokens(lengths: NDArray[np.int64], batch_tokens: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into [start, stop) so that (stop - start) * longest <= batch_tokens."""
    cuts: list[tuple[int, int]] = []
    start = 0
    for position, length in enumerate(lengths.tolist()):
        if position > start and (position - start + 1) * length > batch_tokens:
            cuts.append((start, position))
            start = position
    if len(lengths) > start:
        cuts.append((start, len(lengths)))
    return cuts
