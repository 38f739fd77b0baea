"""A picture of a series, its baseline and its alerts: SVG, written by hand for want of any need for more."""

from collections.abc import Sequence
from html import escape

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.times import rfc3339

Floats = NDArray[np.float64]

_WIDTH, _HEIGHT, _MARGIN, _TITLE = 1200.0, 260.0, 40.0, 30.0
# Points of a line at most: what is drawn of more is their largest, so that no peak is lost.
_POINTS = 1200
_SERIES, _BASELINE, _ALERT = "#4477aa", "#228833", "#cc3311"


class Panel(Struct, frozen=True):
    """One series: counts of windows and what was expected (NaN where nothing was known yet), one a row.

    start, step: seconds since 1970 of the first row, and between rows. alerts: first and last row of each.
    """

    title: str
    start: float
    step: float
    values: Floats
    expected: Floats
    alerts: Sequence[tuple[int, int]]


def svg(panels: Sequence[Panel]) -> str:
    """The panels below each other, as the text of an SVG file."""
    height = len(panels) * (_HEIGHT + _TITLE + _MARGIN)
    body = "".join(_panel(panel, at * (_HEIGHT + _TITLE + _MARGIN)) for at, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 2 * _MARGIN:g} {height:g}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _panel(panel: Panel, top: float) -> str:
    known = panel.expected[~np.isnan(panel.expected)]
    most = max(float(panel.values.max()), float(known.max()) if len(known) else 0.0, 1.0)
    drawn = f'<text x="0" y="-10">{escape(panel.title)}</text>'
    drawn += "".join(_alert(panel, first, last) for first, last in panel.alerts)
    drawn += _line(panel.values, most, _SERIES) + _line(panel.expected, most, _BASELINE)
    drawn += f'<text x="-5" y="12" text-anchor="end">{most:,.0f}</text>'
    drawn += f'<text x="-5" y="{_HEIGHT:g}" text-anchor="end">0</text>'
    for at, anchor in ((0, "start"), (len(panel.values), "end")):
        moment = rfc3339(round((panel.start + at * panel.step) * 1e6))[:16].replace("T", " ")
        x = _WIDTH * at / len(panel.values)
        drawn += f'<text x="{x:g}" y="{_HEIGHT + 18:g}" text-anchor="{anchor}">{moment}</text>'
    return f'<g transform="translate({_MARGIN + 20:g},{top + _TITLE:g})">{drawn}</g>'


def _alert(panel: Panel, first: int, last: int) -> str:
    x, width = (_WIDTH * each / len(panel.values) for each in (first, last - first + 1))
    return (
        f'<rect class="alert" x="{x:.1f}" y="0" width="{max(width, 2):.1f}" height="{_HEIGHT:g}" '
        f'fill="{_ALERT}" fill-opacity="0.35"/>'
    )


def _line(values: Floats, most: float, colour: str) -> str:
    every = -(-len(values) // _POINTS)
    padded = np.concatenate([values, np.full(-len(values) % every, -np.inf)])
    tops = np.where(np.isnan(padded), -np.inf, padded).reshape(-1, every).max(axis=1)
    rows = np.flatnonzero(np.isfinite(tops))
    scale = _WIDTH * every / len(values)
    points = " ".join(f"{row * scale:.1f},{_HEIGHT * (1 - tops[row] / most):.1f}" for row in rows.tolist())
    return f'<polyline fill="none" stroke="{colour}" points="{points}"/>'
