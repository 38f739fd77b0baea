"""From texts to padded batches of token numbers, cut so that little is spent on padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

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


def feed(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """The inputs of the graph, by name, each [B, T]."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "word_mask": batch.word_mask,
    }


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

    def batches(self, texts: Sequence[str], batch_tokens: int) -> list[Batch]:
        """Tokenise, sort by length and cut so that rows times longest row stays within `batch_tokens`.

        A text longer than `batch_tokens` is a batch of its own.

        Raises:
            ScoringError: a text cannot be encoded (lone surrogates).
        """
        if not texts:
            return []
        try:
            encodings = self._tokenizer.encode_batch([text[: self._characters] for text in texts])
        except (TypeError, ValueError) as error:
            raise ScoringError(
                f"The tokenizer refuses one of {len(texts)} texts ({error}); replace what is not Unicode."
            ) from error
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        order = np.argsort(lengths, kind="stable")
        cuts = cut_by_padded_tokens(lengths[order], batch_tokens)
        return [self._batch(texts, encodings, order[start:stop]) for start, stop in cuts]

    def _batch(self, texts: Sequence[str], encodings: list[Encoding], positions: NDArray[np.int64]) -> Batch:
        chosen = [encodings[position] for position in positions]
        shape = (len(chosen), max(len(chosen[-1]), 1))
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
