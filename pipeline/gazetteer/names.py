"""How a company's name is written: legal suffixes, articles, and which of its words are everyday words."""

import re
from functools import cache
from importlib import resources

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


_LEGAL = (
    "Inc Incorporated Corp Corporation Co Company Companies Ltd Limited plc PLC LLC L.P LP N.V NV S.A SA "
    "S.p.A SpA AG SE Oyj AB ASA A/S GmbH KGaA Pvt Holding Holdings Group Motor"
)
_DOTS = str.maketrans("", "", ".")
_BARE_LEGAL = {each.translate(_DOTS).lower() for each in _LEGAL.split(" ")}
# Words that say what a company does, which texts leave out where the rest tells it from others.
_DESCRIPTIONS = (
    "Aerospace Athletica Automation Bancorp Bancshares Beauty Biotech Brands Communications Controls "
    "Energy Entertainment Financial Foods Global Health Healthcare Industries International Labs "
    "Laboratories Markets Networks Pharma Pharmaceutical Pharmaceuticals Platforms Resorts Restaurants "
    "Sciences Scientific Semiconductor Semiconductors Services Software Solutions Stores Systems "
    "Technologies Technology Worldwide"
)
_DESCRIBING = frozenset(words_of(_DESCRIPTIONS.lower()))
# Legal suffixes where a text has them behind a name: "Inc.", ", Inc", "& Co", "Technologies Co. Ltd.".
LEGAL = re.compile(
    rf"(?: (?:{_DESCRIPTIONS.replace(' ', '|')}))*"
    rf"(?:(?: (?:&|and|&amp;))?,? (?:{re.escape(_LEGAL).replace(chr(92) + ' ', '|')})\b\.?)+"
)
# Letters of a short form that is made of a longer name.
_SHORTEST = 4
_CLASS = re.compile(r"\s*\((?:class [a-z]|the)\)\s*$", re.IGNORECASE)
# Signs that have a plainer twin, one for one, so that offsets stay those of the text.
_PLAIN = (("’", "'"), ("‘", "'"), ("–", "-"), ("—", "-"), ("\N{NO-BREAK SPACE}", " "), ("\n", " "), ("\t", " "))


def plain(text: str) -> str:
    """The text with typographic signs and white space as keyboards have them, of the same length."""
    for sign, twin in _PLAIN:
        if sign in text:
            text = text.replace(sign, twin)
    return text


def lowered(text: str) -> str:
    """In lower case, of the same length: the one letter that would become two is exchanged first."""
    return text.replace("İ", "I").lower()


def without_suffix(name: str) -> str:
    """The name without its class, article and legal suffixes: `Apple` of `Apple Inc.`; never empty."""
    words = _CLASS.sub("", name.strip()).split()
    if len(words) > 1 and words[0].lower() == "the":
        words = words[1:]
    while len(words) > 1 and words[-1].translate(_DOTS).rstrip(",").lower() in _BARE_LEGAL:
        words.pop()
    if len(words) > 1 and words[-1] in ("&", "and"):
        words.pop()
    return " ".join(words).rstrip(",") or name.strip()


def forms(name: str) -> list[str]:
    """The ways in which texts write a name: as given, and without what is optional."""
    whole = _CLASS.sub("", name.strip())
    bare = without_suffix(name)
    return list(dict.fromkeys(form for form in (name.strip(), whole, bare, _short(bare)) if form))


def _short(name: str) -> str:
    """`Micron` of `Micron Technology`; nothing where the rest could be anybody."""
    words = name.split()
    while len(words) > 1 and words[-1].lower() in _DESCRIBING:
        words.pop()
    short = " ".join(words)
    if (
        sum(letter.isalnum() for letter in short) < _SHORTEST
        or is_common(short)
        or (len(words) == 1 and short.lower() in proper_names())
    ):
        return ""
    return short


def is_common(name: str) -> bool:
    """Whether every word of the name is an everyday word, so that the name alone proves nothing."""
    words = words_of(name)
    return bool(words) and all(word.lower() in common_words() for word in words)


@cache
def common_words() -> frozenset[str]:
    """Words that English text also has uncapitalised; the file says where they are from."""
    return _listed("common_words.txt")


@cache
def proper_names() -> frozenset[str]:
    """Names of people and places; the file says where they are from."""
    return _listed("proper_names.txt")


def _listed(file: str) -> frozenset[str]:
    text = resources.files("pipeline.gazetteer").joinpath(file).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
