"""Which texts are in a language that the model was not made for: refusing one that it reads is the worse error.

The event's own language decides where it has one; then the script; then CLD2, where there is enough to go by.
"""

import re
import unicodedata
from collections.abc import Sequence

try:
    import pycld2
except ImportError:  # it has wheels for Linux on x86-64 only, and elsewhere needs a compiler
    pycld2 = None

# Chosen on half of the rows of the public sets: with three words sports tables and lists of names look foreign.
_MIN_LETTERS = 16
_MIN_WORDS = 4
# Half would let Chinese headlines full of Latin names pass; a single letter is a unit or an ornament.
_MIN_OTHER_SHARE = 0.2
_MIN_OTHER_LETTERS = 2
# What a megabyte is written in shows in its first page.
_CHARACTERS = 2_000

_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{1,8})*")
# No language (BCP 47), and the codes for private use, which Twitter gives to tweets of links and tags only.
_NO_LANGUAGE = re.compile(r"und|mul|mis|zxx|q[a-t][a-z]")
# Old and three-letter codes for what CLD2 and everybody else call otherwise.
_ALIASES = {
    "ara": "ar", "chi": "zh", "cmn": "zh", "deu": "de", "dut": "nl", "eng": "en", "fil": "tl", "fra": "fr",
    "fre": "fr", "ger": "de", "in": "id", "ita": "it", "iw": "he", "ji": "yi", "jpn": "ja", "jw": "jv",
    "kor": "ko", "nb": "no", "nld": "nl", "nn": "no", "por": "pt", "rus": "ru", "spa": "es", "zho": "zh",
}  # fmt: skip

# Tickers, names and tags say nothing of the language; where no blank ends them, another script does.
_MARKS = re.compile(r"[$@#][0-9A-Z_a-z\u00c0-\u036f]+|&#?[0-9A-Za-z]+;")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_OTHER_LETTER = re.compile(r"[^\W\d_A-Za-zªºµ\u00c0-\u036f\u1d00-\u1dbf\u1e00-\u1eff\u2160-\u2188]")


def _primary(code: str) -> str:
    subtag = re.split("[-_]", code, maxsplit=1)[0].lower()
    return _ALIASES.get(subtag, subtag)


_DETECTED = pycld2.DETECTED_LANGUAGES if pycld2 else ()
_TELLABLE = frozenset(_primary(code) for name, code in (pycld2.LANGUAGES if pycld2 else ()) if name in _DETECTED)
# Where one of these is supported, letters that are not Latin refuse nothing.
_NOT_LATIN = frozenset((
    "am", "ar", "as", "be", "bg", "bh", "bn", "bo", "chr", "dv", "dz", "el", "fa", "gu", "he", "hi", "hy", "iu",
    "ja", "ka", "kk", "km", "kn", "ko", "ks", "ky", "lo", "mk", "ml", "mn", "mr", "my", "ne", "or", "pa", "ps",
    "ru", "sa", "sd", "si", "sr", "syr", "ta", "te", "tg", "th", "ti", "tt", "ug", "uk", "ur", "uz", "yi", "zh",
))  # fmt: skip


def unsupported(texts: Sequence[str], given: Sequence[str | None], languages: Sequence[str]) -> list[bool]:
    """For each text: is it in none of `languages`? A text without enough evidence is not.

    Args:
        texts: normalised (`models.text`).
        given: what the event itself says, for each text: a BCP 47 tag; anything else counts as not given.
        languages: what the bundle reads. With one among them that cannot be detected, only `given` refuses.
    """
    supported = frozenset(map(_primary, languages))
    by_script = not supported & _NOT_LATIN
    # Without CLD2 the script alone refuses, which for a bundle of Latin letters settles half of the world.
    detectable = bool(supported) and (supported <= _TELLABLE if pycld2 else by_script)
    found: list[bool] = []
    for text, tag in zip(texts, given, strict=True):
        language = _said(tag)
        if language is not None:
            found.append(language not in supported)
        else:
            found.append(detectable and _looks_foreign(text[:_CHARACTERS], supported, by_script))
    return found


def _said(tag: str | None) -> str | None:
    match = _TAG.fullmatch(tag.strip()) if tag else None
    if match is None or _NO_LANGUAGE.fullmatch(match[1].lower()):
        return None
    return _primary(match[1])


def _looks_foreign(text: str, supported: frozenset[str], by_script: bool) -> bool:
    if not text.isascii():
        # Letters of the mathematicians and full-width ones are how people write English in bold.
        text = unicodedata.normalize("NFKC", text)
    words = _WORD.findall(_MARKS.sub(" ", text))
    letters = sum(map(len, words))
    plain = " ".join(words)
    if by_script and not plain.isascii():
        others = len(_OTHER_LETTER.findall(plain))
        if others >= _MIN_OTHER_LETTERS and others > _MIN_OTHER_SHARE * letters:
            return True
    if pycld2 is None or letters < _MIN_LETTERS or len(words) < _MIN_WORDS:
        return False
    try:
        reliable, _, best = pycld2.detect(plain)
    except pycld2.error:  # a code point newer than its tables
        return False
    language = _primary(best[0][1])
    # Short English is often taken for Scots, and Scots can be read by whoever reads English.
    if language == "sco":
        language = "en"
    return bool(reliable) and language != "un" and language not in supported
