"""Near-duplicate signatures: one wire story, repeated with small changes, keeps nearly the same bits."""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

# A word's first 64 characters tell it from others; more of it would only fill the memory of `_code`.
_WORDS = re.compile(r"(\w{1,64})\w*")
# Several times a long news article: a chunk of megabyte texts then costs little more than one of articles.
_MOST_WORDS = 4000
# Characters taken at once: each becomes some 60 bytes on the way, and memory is bounded.
_AT_ONCE = 500_000
_LINKS = re.compile(r"https?://\S+")
# An odd constant spreads CRC-32's bits over 64 (Knuth's multiplicative hashing).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)


def signatures(texts: Sequence[str]) -> list[int | None]:
    """SimHash (Charikar 2002) of each text's words and word pairs, links left out; None without a word.

    64 bits as a signed integer. Texts that differ in few words differ in few bits. Of a long text the first
    4,000 words count, of a long word the first 64 characters.
    """
    if len(texts) > 1 and sum(map(len, texts)) > _AT_ONCE:
        middle = len(texts) // 2
        return signatures(texts[:middle]) + signatures(texts[middle:])
    codes: list[int] = []
    starts: list[int] = []
    having: list[int] = []
    for index, text in enumerate(texts):
        if "http" in text:
            text = _LINKS.sub(" ", text)
        text = text.lower()
        # One call that finds all words is faster, and a text this short hardly has too many.
        if len(text) < 2 * _MOST_WORDS:
            words = _WORDS.findall(text)
        else:
            words = [match[1] for match in islice(_WORDS.finditer(text), _MOST_WORDS)]
        if words:
            having.append(index)
            starts.append(len(codes))
            codes += map(_code, words)
    found: list[int | None] = [None] * len(texts)
    if having:
        for index, value in zip(having, _majority(codes, starts), strict=True):
            found[index] = value
    return found


@lru_cache(maxsize=1 << 16)
def _code(word: str) -> int:
    return zlib.crc32(word.encode())


def _majority(codes: Sequence[int], starts: Sequence[int]) -> list[int]:
    words: NDArray[np.uint64] = np.array(codes, dtype=np.uint64)
    previous = np.roll(words, 1)
    previous[starts] = 0
    counts = np.diff([*starts, len(codes)])[:, None]
    # A word and its pair with the word before: two votes for each word.
    bits = _bits(words)
    bits += _bits(words + (previous + np.uint64(1)) * _PAIR)
    votes = np.add.reduceat(bits, starts, axis=0, dtype=np.int32)
    packed = np.packbits(votes > counts, axis=1, bitorder="little")
    return [int(each) for each in packed.view("<i8")[:, 0]]


def _bits(features: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Column i is bit i of the spread features."""
    hashes = (features + np.uint64(1)) * _SPREAD
    hashes ^= hashes >> np.uint64(29)
    return np.unpackbits(hashes.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
