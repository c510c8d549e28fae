"""Horizontal bars as SVG, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from bench.table import Bar, Chart

WIDTH, NAMES, VALUES = 720, 170, 90
"""Pixels: all of it, the space for the names, and that for the values behind the bars."""
LINE, HEADING, MARGIN = 22, 26, 12
FONT = "font-family='system-ui, sans-serif'"
OURS = "this project"


def svg(chart: Chart) -> str:
    """Return the picture; the bars of `this project` have a colour of their own."""
    largest = max((bar.value for bar in chart.bars), default=0) or 1
    y = MARGIN + 16
    parts = [text(MARGIN, y, f"{chart.title} ({chart.unit}, less is better)", weight="bold", size=14)]
    for group, bars in groupby(chart.bars, key=lambda bar: bar.group):
        y += HEADING
        parts.append(text(MARGIN, y, group, weight="bold"))
        for bar in bars:
            y += LINE
            parts.append(_bar(y, bar, largest))
    height = y + MARGIN + 6
    return picture(parts, height)


def picture(parts: Sequence[str], height: int) -> str:
    """Return the SVG document with these elements."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>"
    return "\n".join([head, *parts, "</svg>", ""])


def _bar(y: int, bar: Bar, largest: float) -> str:
    length = max(1.0, bar.value / largest * (WIDTH - NAMES - VALUES - MARGIN))
    colour = "#2f81f7" if bar.name == OURS else "#8b949e"
    rectangle = f"<rect x='{NAMES}' y='{y - 12}' width='{length:.1f}' height='15' rx='2' fill='{colour}'/>"
    name = text(NAMES - 8, y, bar.name, anchor="end")
    return name + rectangle + text(NAMES + length + 6, y, _written(bar.value))


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    """Return words at a place; `anchor` says which end of them is there."""
    # a grey that has enough contrast on white and on near-black
    style = f"{FONT} font-size='{size}' font-weight='{weight}' fill='#737b85' text-anchor='{anchor}'"
    return f"<text x='{x:.1f}' y='{y:g}' {style}>{escape(words)}</text>"
