"""Examples made ready for a network: tokenised once, with their answers in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor

from models.data import Example
from models.network import sentence_vector
from models.recipe import Recipe
from models.targets import Target, target
from models.tokens import Batch, TextTokenizer, cut_by_padded_tokens, word_shapes

# Padded tokens a batch where nothing learns.
READ_TOKENS = 1024

Positions = NDArray[np.int64]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(slots=True)
class Corpus:
    """N texts of one split, those of one file together; `files` counts each file's.

    `vectors` [N, D] are sentence vectors of the untouched base in half precision, where an embedding is held to
    it.
    """

    texts: list[str]
    encodings: list[Encoding]
    targets: list[Target]
    lengths: NDArray[np.int64]
    files: list[int]
    vectors: NDArray[np.float16] | None = None

    @property
    def digest(self) -> str:
        """What the texts are, in their order, as 32 hex digits."""
        hashed = blake2b(digest_size=16)
        for text in self.texts:
            hashed.update(text.encode("utf-8", "surrogatepass") + b"\n")
        return hashed.hexdigest()

    def by_length(self, batch_tokens: int = READ_TOKENS) -> list[Positions]:
        """Positions of all texts, sorted by length, cut by padded tokens."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start:stop] for start, stop in cut_by_padded_tokens(self.lengths[order], batch_tokens)]

    def of(self, positions: Sequence[int]) -> "Corpus":
        """The texts at these positions, as one file."""
        vectors = None if self.vectors is None else self.vectors[list(positions)]
        return Corpus(
            [self.texts[each] for each in positions],
            [self.encodings[each] for each in positions],
            [self.targets[each] for each in positions],
            self.lengths[list(positions)],
            [len(positions)],
            vectors,
        )


def read(files: Sequence[Sequence[Example]], recipe: Recipe, tokenizer: TextTokenizer) -> Corpus:
    """Tokenise the examples of a split, file by file."""
    examples = [example for file in files for example in file]
    encodings = tokenizer.encode([example.text for example in examples]) if examples else []
    targets = [target(example, encoding, recipe) for example, encoding in zip(examples, encodings, strict=True)]
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    return Corpus([each.text for each in examples], encodings, targets, lengths, [len(file) for file in files])


def gather(
    corpus: Corpus, positions: Positions, tokenizer: TextTokenizer, device: torch.device
) -> tuple[Batch, Inputs]:
    """A batch, and what the network reads of it: ids, attention mask, word mask and word shapes, each [B, T]."""
    batch = tokenizer.collate(corpus.texts, corpus.encodings, positions)
    parts = (batch.input_ids, batch.attention_mask, batch.word_mask, word_shapes(batch))
    ids, attention, words, shapes = (torch.from_numpy(part).to(device) for part in parts)
    return batch, (ids, attention, words, shapes)


@torch.inference_mode()
def base_vectors(
    encoder: torch.nn.Module, corpus: Corpus, tokenizer: TextTokenizer, device: torch.device
) -> NDArray[np.float16]:
    """Sentence vectors [N, D] of an encoder, for its successor to be held to."""
    found: NDArray[np.float16] | None = None
    encoder.eval()
    for positions in corpus.by_length():
        _, (ids, attention, _, _) = gather(corpus, positions, tokenizer, device)
        states = encoder(input_ids=ids, attention_mask=attention).last_hidden_state  # [B, T, D]
        vectors = sentence_vector(states, attention).cpu().numpy().astype(np.float16)
        if found is None:
            found = np.empty((len(corpus.texts), vectors.shape[1]), np.float16)
        found[positions] = vectors
    return np.empty((0, 0), np.float16) if found is None else found
