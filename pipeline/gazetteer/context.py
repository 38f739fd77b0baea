"""What the words around a name say: is it the company, or a word that is written like it?"""

import re
from collections.abc import Sequence

from msgspec import Struct

from pipeline.gazetteer.names import common_words, words_of

# A company has these, or is among them: "Target shares", "the CEO of Gap".
_NOUNS = frozenset(
    words_of(
        "share shares stock stocks ceo cfo coo chairman founder inc corp plc ltd earnings profit profits "
        "revenue revenues sales dividend dividends eps guidance outlook forecast results investors investor "
        "shareholders shareholder analyst analysts quarter quarterly ipo merger acquisition buyback stake "
        "nasdaq nyse sec bid takeover rating upgrade downgrade downgrades upgrades rival competitor maker "
        "retailer automaker bonds ebitda subsidiary spokesman spokeswoman spokesperson executive executives "
        "layoffs valuation q1 q2 q3 q4"
    )
)
# A company does these: what is written like it seldom does.
_VERBS = frozenset(
    words_of(
        "says said reports reported posts posted beats misses missed raises raised cuts announces announced "
        "unveils unveiled launches launched acquires acquired buys bought sells sold plans expects expected "
        "hires hired names named sues sued gains gained jumps jumped falls fell rises rose surges surged "
        "slides slid slumps slumped drops dropped climbs climbed soars soared tumbles tumbled plunges plunged "
        "rallies rallied agrees agreed declares declared wins won signs signed invests invested owns slips "
        "slipped edges edged adds added will has is was appoints appointed files filed settles settled warns "
        "warned recalls recalled delays delayed faces"
    )
)
_BEFORE = frozenset(
    words_of(
        "shares stock stake investors ceo earnings rival rivals buy sell upgrades downgrades acquire buying "
        "at by with vs versus maker retailer giant"
    )
)
_LINKS = frozenset(("of", "in", "at", "the", "from", "for"))
_MONEY = re.compile(
    r"\d\s?%|(?:[$€£]|\bRs\.?)\s?\d|\b\d+(?:\.\d+)?\s?(?:bn|mln|million|billion|crore|cr|percent|pct)\b"
)
_TOKEN = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_BREAK = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9$])|\n|https?://\S+")
# What stands between a beginning and its first word.
_OPENING = " \t\"'“”‘’([{#*-–—|:;.!?,…>/"
# Characters of a window, for each of its words.
_WIDE = 9
# Words shorter than this are small ones, which a headline in title case leaves uncapitalised.
_LONG = 4


class Sentence(Struct, frozen=True):
    """A piece of a text; `cased`: a capital letter means something in it; `shouted`: it is all capitals."""

    start: int
    end: int
    cased: bool
    shouted: bool


def sentence_at(text: str, start: int, end: int, share: float) -> Sentence:
    """The sentence around [start, end); it is cased when enough of its longer words begin in lower case."""
    first, last = 0, len(text)
    for found in _BREAK.finditer(text):
        if found.end() <= start:
            first = found.end()
        elif found.start() >= end:
            last = found.start()
            break
    others = [word for word in words_of(text[first:start]) + words_of(text[end:last]) if len(word) >= _LONG]
    low = sum(word[0].islower() for word in others)
    loud = sum(word.isupper() for word in others)
    return Sentence(first, last, bool(others) and low >= share * len(others), loud * 2 > len(others))


def begins(text: str, sentence: Sentence, start: int) -> bool:
    """Whether a capital letter at `start` is owed to its place: first of the sentence, a quotation or a clause."""
    before = text[sentence.start : start].rstrip(" \t\"'“‘([{#")
    return not before or before[-1] in ".!?:;|*-–—…" or not before.strip(_OPENING)


def is_part_of_name(text: str, sentence: Sentence, start: int, end: int) -> bool:
    """Whether a capitalised word stands directly before or behind, as in `Harrison Ford` or `Apple Watch`."""
    before = re.search(r"([^\W_]+)[ -]$", text[sentence.start : start])
    if before and before[1][0].isupper():
        word = before[1].lower()
        # The first word of a sentence is capitalised whatever it is; `Harrison` would be anywhere.
        if word == "the" or (word not in _NOUNS | _LINKS and (before.start() or word not in common_words())):
            return True
    behind = re.match(r"[ -]([^\W_]+)", text[end : sentence.end])
    return bool(behind and behind[1][0].isupper() and behind[1].lower() not in _NOUNS)


def evidence(text: str, sentence: Sentence, start: int, end: int, window: int) -> int:
    """How much speaks for a company: two for what stands directly beside it, one for what is near."""
    reach = window * _WIDE
    left = text[max(sentence.start, start - reach) : start]
    right = text[end : min(sentence.end, end + reach)]
    before = [word.lower() for word in _TOKEN.findall(left)][-window:]
    behind = [word.lower() for word in _TOKEN.findall(right)][:window]
    found = 0
    if right.startswith("'s") or (behind and behind[0] in _NOUNS | _VERBS and right[:1] in " ,("):
        found += 2
    if before and left[-1:] == " " and (before[-1] in _BEFORE or _linked(before)):
        found += 2
    found += len(_NOUNS.intersection(before + behind))
    return found + bool(_MONEY.search(left) or _MONEY.search(right))


def _linked(before: Sequence[str]) -> bool:
    """`shares of`, `stake in`."""
    return len(before) > 1 and before[-1] in _LINKS and before[-2] in _BEFORE | _NOUNS
