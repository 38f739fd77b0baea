"""Explanations as lines for a terminal: every word, the more attention the bluer."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from models.explain import Explanation, Reading, strongest

# From a faint to the full shade of one hue, both dark enough for white letters.
_FAINT, _FULL = (104, 116, 140), (0, 72, 214)
# Share of the strongest word below which a word is not coloured, and from which it is bold.
_SHOWN, _BOLD = 0.1, 0.6
# Words whose numbers follow the line.
_NUMBERED = 5


def lines(each: Explanation) -> Iterator[Text]:
    """What there is to say of one text."""
    yield Text(printable(each.text) or "(nothing to read)", style="bold")
    if each.truncated_share:
        yield Text(f"  {each.truncated_share:.0%} of the text was not read", style="yellow")
    if each.unsupported:
        yield Text("  the language of this text is none that the bundle reads", style="yellow")
    if not each.readings:
        yield Text("  the bundle has no head for this stream", style="dim")
    for reading in each.readings:
        yield from _reading(each, reading, f"  {reading.head:<17}")
    for entity in each.entities:
        yield Text(f"  {printable(entity.text)}: {entity.type}  {entity.probability:.2f}")
        for reading in entity.readings:
            yield from _reading(each, reading, f"    {reading.head:<17}")


def shaded(each: Explanation, weights: Sequence[float]) -> Text:
    """All words in order, shaded by their weight beside the strongest; what stands between them as it is."""
    most = max(weights, default=0.0) or 1.0
    found = Text()
    last = 0
    for (start, end), weight in zip(each.words, weights, strict=True):
        found.append(printable(each.text[last:start]))
        found.append(printable(each.text[start:end]), style=_style(weight / most))
        last = end
    return found


def printable(text: str) -> str:
    """A text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _reading(each: Explanation, reading: Reading, name: str) -> Iterator[Text]:
    decision = "" if reading.decision == "label" else f" ({reading.decision})"
    said = f"{reading.label}{decision}  {reading.probability:.2f}" if reading.label else "nothing found"
    yield Text(f"{name}{said}")
    margin = " " * (len(name) - len(name.lstrip()) + 2)
    second = [("|gradient x input| ", reading.gradient)] if reading.gradient else []
    for title, weights in [("attention " if second else "", reading.attention), *second]:
        if weights:
            start = f"{margin}{title:<19}" if second else margin
            yield Text.assemble((start, "dim"), shaded(each, weights))
            numbers = [
                f"{printable(each.word(number))} {weights[number]:.2f}" for number in strongest(weights, _NUMBERED)
            ]
            yield Text(f"{margin}{'  '.join(numbers)}", style="dim")


def _style(strength: float) -> str:
    if strength < _SHOWN:
        return ""
    red, green, blue = (
        round(faint + (full - faint) * strength) for faint, full in zip(_FAINT, _FULL, strict=True)
    )
    return f"{'bold ' if strength >= _BOLD else ''}white on rgb({red},{green},{blue})"
