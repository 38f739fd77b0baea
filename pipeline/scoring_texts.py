"""Scoring texts outside any stream, for the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.compose import open_scorer
from pipeline.settings import Settings
from schemas.errors import UsageError
from schemas.scores import Score

# More texts than this at a time bring no better batches.
_GROUP = 512


def read_texts(argument: str) -> list[str]:
    """The text itself, or the lines of a file or of standard input (`-`); JSON lines give their `text`.

    Raises:
        UsageError: nothing to score, or the file cannot be read.
    """
    if argument == "-":
        lines = sys.stdin.read().splitlines()
    elif _is_file(argument):
        try:
            lines = Path(argument).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the file {argument} cannot be read as UTF-8 text: {error}") from None
    else:
        lines = [argument.encode("utf-8", "replace").decode()]
    texts = [text for line in lines if line.strip() for text in [_text(line)] if text.strip()]
    if not texts:
        raise UsageError("there is no text to score; give one, or a file with a text a line")
    return texts


def score_texts(settings: Settings, texts: Sequence[str], stream: str) -> tuple[str, list[tuple[str, Score]]]:
    """The bundle's identity, and each text with its score."""
    scorer = open_scorer(settings)
    found: list[tuple[str, Score]] = []
    for first in range(0, len(texts), _GROUP):
        group = texts[first : first + _GROUP]
        found += zip(group, scorer.score(group, stream), strict=True)
    return scorer.bundle, found


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except OSError:
        return False  # a text may be longer than a file's name


def _text(line: str) -> str:
    if line.lstrip().startswith("{"):
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return line
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            return str(row["text"])
    return line
