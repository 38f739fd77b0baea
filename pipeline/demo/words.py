"""A text with the words that an alert looked at: the more attention, the stronger the colour."""

import re
from collections.abc import Mapping

from rich.text import Text

COLOURS = {"negative": "red", "neutral": "grey50", "positive": "green"}

# Share of the attention from which on a word gets a style, strongest first.
_STYLES = ((0.4, "bold white on red"), (0.15, "bold red"), (0.04, "yellow"))


def highlighted(text: str, weights: Mapping[str, float]) -> Text:
    """`weights` gives words and their share of a head's attention (0 to 1)."""
    found = Text(text, no_wrap=True, overflow="ellipsis")
    # The strongest last: what is painted later wins.
    for word, weight in sorted(weights.items(), key=lambda pair: pair[1]):
        style = next((style for least, style in _STYLES if weight >= least), None)
        if style is None or not any(letter.isalnum() for letter in word):
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text):
            found.stylize(style, *match.span())
    return found


def one_line(text: str) -> str:
    """Without what commands a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
