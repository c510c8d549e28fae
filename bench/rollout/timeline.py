"""The latency of each second of a rollout as SVG: a panel for each variant, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from bench.chart import MARGIN, OURS, WIDTH, picture, text
from bench.rollout.outcome import Outcome, Phase
from bench.rollout.report import CHANGES
from bench.rollout.sample import Sample
from bench.spread import Spread

AXIS, PANEL, HEADING, FOOT = 56, 150, 44, 34
"""Pixels: the space for the numbers on the left, the height of a panel, of the words above it, and below it."""
FASTEST, SLOWEST = 0.001, 30.0
"""Seconds: the ends of the logarithmic scale."""
MARKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms", 1.0: "1 s", 10.0: "10 s"}
GREY, BLUE, RED = "#8b949e", "#2f81f7", "#da3633"


def svg(outcomes: Sequence[Outcome]) -> str:
    """Return a panel for each outcome, all with the same scales."""
    longest = max(outcome.phases[-1].ended - outcome.phases[0].began for outcome in outcomes)
    parts = [text(MARGIN, MARGIN + 12, "Latency of each second: median and slowest request", weight="bold", size=14)]
    top = MARGIN + 24
    for outcome in outcomes:
        parts += _panel(outcome, top + HEADING, longest)
        top += HEADING + PANEL + FOOT
    return picture(parts, top)


def _panel(outcome: Outcome, top: int, longest: float) -> list[str]:
    began = outcome.phases[0].began
    scale = (WIDTH - AXIS - MARGIN) / longest
    parts = [text(MARGIN, top - 24, f"{outcome.variant} (red: failed requests)", weight="bold")]
    for value, words in MARKS.items():
        y = top + _depth(value)
        parts += [_line(AXIS, y, WIDTH - MARGIN, y, GREY, 0.3), text(AXIS - 6, y + 4, words, anchor="end", size=11)]
    parts += [_phase(phase, began, scale, top) for phase in outcome.phases]
    colour = BLUE if outcome.variant == OURS else GREY
    for second, samples in sorted(_by_second(outcome, began).items()):
        x = AXIS + second * scale
        parts += _second(samples, x, max(1.0, scale - 0.5), top, colour)
    parts += [text(AXIS + second * scale, top + PANEL + 16, f"{second} s", size=11) for second in _ticks(longest)]
    return parts


def _second(samples: Sequence[Sample], x: float, width: float, top: int, colour: str) -> list[str]:
    """Return the bar from the median to the slowest request, and one for the failed ones along the bottom."""
    spread = Spread.of([sample.seconds for sample in samples])
    upper, lower = top + _depth(spread.largest), top + _depth(spread.median)
    bars = [_bar(x, upper, width, max(2.0, lower - upper), colour)]
    if any(sample.failed for sample in samples):
        share = sum(sample.failed for sample in samples) / len(samples)
        bars.append(_bar(x, top + PANEL - 4 - share * 40, width, 4 + share * 40, RED))
    return bars


def _phase(phase: Phase, began: float, scale: float, top: int) -> str:
    x = AXIS + (phase.began - began) * scale
    parts = [_line(x, top - 14, x, top + PANEL, GREY, 0.6)]
    # the quiet phases are too short for their names, and the others may be: every second name is lower
    if phase.name in CHANGES:
        y = top - 6 + 14 * (CHANGES.index(phase.name) % 2)
        parts.append(text(x + 3, y, phase.name, size=11))
    return "".join(parts)


def _by_second(outcome: Outcome, began: float) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in outcome.samples:
        found[max(0, math.floor(sample.at - began))].append(sample)
    return found


def _ticks(longest: float) -> range:
    return range(0, int(longest), 30 if longest > 60 else 5)


def _depth(seconds: float) -> float:
    """Return the distance from the top of a panel in pixels."""
    inside = min(SLOWEST, max(FASTEST, seconds))
    return PANEL * math.log(SLOWEST / inside) / math.log(SLOWEST / FASTEST)


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, opacity: float) -> str:
    ends = f"x1='{x:.1f}' y1='{y:.1f}' x2='{to_x:.1f}' y2='{to_y:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-opacity='{opacity}'/>"
