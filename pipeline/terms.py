"""Words that tell texts from others: log-odds with an informative prior.

B. Monroe, M. Colaresi, K. Quinn, Fightin' Words, Political Analysis 16 (2008): a word's log-odds in the one lot
against the other, both drawn towards what they have together, over its standard error.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

_WORDS = re.compile(r"[^\W\d_][\w'-]{1,40}")
_LINKS = re.compile(r"https?://\S+")
# Weight of what both lots have together, in words; and standard errors from which a word is told.
_PRIOR = 100.0
_LEAST = 1.64


def terms(texts: Iterable[str], others: Iterable[str], most: int = 8) -> list[tuple[str, float]]:
    """Words that are more frequent in `texts` than in `others`, with z-scores, the clearest first.

    A word counts once a text, so that no single one makes it.
    """
    here, there = _counts(texts), _counts(others)
    both = here + there
    total, size, rest = sum(both.values()), sum(here.values()), sum(there.values())
    found = []
    for word, count in here.items():
        prior = _PRIOR * both[word] / total
        ours = math.log((count + prior) / (size + _PRIOR - count - prior))
        theirs = math.log((there[word] + prior) / (rest + _PRIOR - there[word] - prior))
        z = (ours - theirs) / math.sqrt(1 / (count + prior) + 1 / (there[word] + prior))
        if count > 1 and z >= _LEAST:
            found.append((word, round(z, 2)))
    return sorted(found, key=lambda each: (-each[1], each[0]))[:most]


def _counts(texts: Iterable[str]) -> "Counter[str]":
    return Counter(word for text in texts for word in set(_WORDS.findall(_LINKS.sub(" ", text.lower()))))
