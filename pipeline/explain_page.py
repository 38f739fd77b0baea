"""Explanations as one HTML page that needs neither network nor script."""

from collections.abc import Sequence
from html import escape
from unicodedata import category

from models.explain import ExplainedEntity, Explanation, Reading, strongest

# Words that a table lists.
_LISTED = 8
# Percent of the strongest word at which the legend shows the shade.
_STEPS = (0, 25, 50, 75, 100)

# One hue; only its strength varies, and a bar below each word says the same. The strongest shade leaves letters a
# contrast of more than 4.5 to 1 on both backgrounds (WCAG 2, AA).
_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#16181d;--soft:#565d6b;--line:#d5d9e0;--hue:20,100,210;--full:.55}
@media(prefers-color-scheme:dark){:root{--back:#15171c;--text:#f1f3f6;--soft:#a5adbb;--line:#383d48;
--hue:80,150,255;--full:.6}}
body{background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1.05rem;border-top:1px solid var(--line);padding-top:1.2rem;margin-top:2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.3rem 0}.soft{color:var(--soft);font-size:.9rem}
.text{font-size:1.1rem;line-height:2.1;overflow-wrap:anywhere}
.text .of{display:inline-block;width:10rem;color:var(--soft);font-size:.85rem}
.w{display:inline-block;padding:0 .12em;border-radius:3px;line-height:1.4;
background:linear-gradient(rgb(var(--hue)),rgb(var(--hue))) 0 100%/calc(var(--w)*100%) 3px no-repeat,
rgba(var(--hue),calc(var(--w)*var(--full)))}
.unread{color:var(--soft);text-decoration:line-through}.mine{outline:2px solid var(--text)}
.warn{border-left:4px solid var(--text);padding-left:.6rem}
section section{margin-left:1.2rem}
table{border-collapse:collapse;font-size:.9rem;margin:.4rem 0}
th,td{text-align:left;padding:.1rem .9rem .1rem 0}th{font-weight:400;color:var(--soft)}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;height:.7em;width:calc(var(--w)*9rem);min-width:1px;background:rgb(var(--hue))}
"""


def page(bundle: str, stream: str, explanations: Sequence[Explanation]) -> str:
    """The page.

    Args:
        bundle: the bundle's identity.
        explanations: of texts of this stream, in the order in which they shall stand there.
    """
    second = any(reading.gradient for each in explanations for reading in _all_readings(each))
    sections = "\n".join(_section(number, each) for number, each in enumerate(explanations, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Salience: what the model read</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>What the model read</h1>
<p class="soft">Bundle {_clean(bundle)}, stream {_clean(stream)}</p>
{_legend(second)}
{sections}
</body>
</html>
"""


def _legend(second: bool) -> str:
    steps = " ".join(_shaded(f"{step} %", step / 100, "") for step in _STEPS)
    gradient = (
        "<p class='soft'>|gradient &times; input| says how much the label's score would move with the word. It is "
        "computed on the network in full precision, and has a scale of its own.</p>"
        if second
        else ""
    )
    return f"""<p class="text">{steps} <span class="soft">of the strongest word</span></p>
<p class="soft">The stronger the shade of a word and the longer the bar below it, the more of the head's
attention sat on it, beside the strongest word of the same line. Numbers are shares of all attention on the
text; they stand in the table, and show when the pointer rests on a word. An outline marks the entity that a
line is about. Attention says what was read, not that the label would change without it.</p>
{gradient}"""


def _section(number: int, each: Explanation) -> str:
    parts = [f"<section>\n<h2>Text {number}</h2>", f'<p class="text" dir="auto">{_read_text(each)}</p>']
    if each.truncated_share:
        parts.append(f'<p class="warn">{each.truncated_share:.0%} of the text was not read; it is struck out.</p>')
    if each.unsupported:
        parts.append('<p class="warn">The language of this text is none that the bundle reads.</p>')
    parts += [_reading(each, reading) for reading in each.readings]
    parts += [_entity(each, entity) for entity in each.entities]
    if not each.readings:
        parts.append('<p class="soft">The bundle has no head for this stream.</p>')
    return "\n".join([*parts, "</section>"])


def _read_text(each: Explanation) -> str:
    end = each.words[-1][1] if each.words and each.truncated_share else len(each.text)
    rest = each.text[end:]
    unread = f'<span class="unread">{_clean(rest)}</span>' if rest else ""
    return _clean(each.text[:end]) + unread or '<span class="soft">(nothing to read)</span>'


def _reading(each: Explanation, reading: Reading) -> str:
    heading = f"<h3>{_clean(reading.head)}: {_answer(reading)}</h3>"
    return f"<section>\n{heading}\n{_weights(each, reading)}</section>"


def _entity(each: Explanation, entity: ExplainedEntity) -> str:
    heading = (
        f'<h3><bdi>{_clean(entity.text)}</bdi> <span class="soft">{_clean(entity.type)}, '
        f"{entity.probability:.0%} sure</span></h3>"
    )
    said = "".join(
        f"<p>{_clean(reading.head)}: {_answer(reading)}</p>\n{_weights(each, reading, entity)}"
        for reading in entity.readings
    )
    return f"<section>\n{heading}\n{said}</section>"


def _answer(reading: Reading) -> str:
    if not reading.label:
        return "<b>nothing found</b>"
    decision = "" if reading.decision == "label" else f" ({_clean(reading.decision)})"
    return f'<b>{_clean(reading.label)}</b>{decision} <span class="soft">{reading.probability:.0%}</span>'


def _weights(each: Explanation, reading: Reading, entity: ExplainedEntity | None = None) -> str:
    if not reading.attention:
        return ""
    named = "attention" if reading.gradient else ""
    lines = _line(each, reading.attention, named, entity)
    if reading.gradient:
        lines += _line(each, reading.gradient, "|gradient &times; input|", entity)
    return lines + _table(each, reading)


def _line(each: Explanation, weights: Sequence[float], named: str, entity: ExplainedEntity | None) -> str:
    """The words in order, shaded; what stands between them as it is."""
    most = max(weights, default=0.0) or 1.0
    parts: list[str] = []
    last = 0
    for (start, end), weight in zip(each.words, weights, strict=True):
        inside = entity is not None and entity.start < end and start < entity.end
        parts.append(_clean(each.text[last:start]))
        parts.append(_shaded(each.text[start:end], weight / most, f"{weight:.1%}", inside))
        last = end
    label = f'<span class="of">{named}</span>' if named else ""
    return f'<p class="text" dir="auto">{label}{"".join(parts)}</p>\n'


def _shaded(word: str, strength: float, title: str, outlined: bool = False) -> str:
    kind = "w mine" if outlined else "w"
    hover = f' title="{title}"' if title else ""
    return f'<span class="{kind}" style="--w:{strength:.2f}"{hover}>{_clean(word)}</span>'


def _table(each: Explanation, reading: Reading) -> str:
    """The strongest words with their numbers."""
    most = max(reading.attention, default=0.0) or 1.0
    rows = [
        f'<tr><td><bdi>{_clean(each.word(number))}</bdi></td><td class="n">{reading.attention[number]:.1%}</td>'
        f'<td><span class="bar" style="--w:{reading.attention[number] / most:.2f}"></span></td>'
        + (f'<td class="n">{reading.gradient[number]:.1%}</td>' if reading.gradient else "")
        + "</tr>"
        for number in strongest(reading.attention, _LISTED)
    ]
    second = "<th>|gradient &times; input|</th>" if reading.gradient else ""
    head = f'<tr><th>word</th><th colspan="2">attention</th>{second}</tr>'
    return f"<table>{head}{''.join(rows)}</table>\n" if rows else ""


def _all_readings(each: Explanation) -> list[Reading]:
    return [*each.readings, *(reading for entity in each.entities for reading in entity.readings)]


def _clean(text: str) -> str:
    """Escaped, and without what a browser refuses or obeys: control characters and halves of characters."""
    kept = "".join("\ufffd" if category(letter) in ("Cc", "Cs") and letter != "\n" else letter for letter in text)
    return escape(kept, quote=True)
