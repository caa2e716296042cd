"""A chart as SVG in a page of the console, which draws it in milliseconds and holds up no other thread of a worker."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine

__all__ = ["chart_svg"]

_WIDTH, _HEIGHT, _MARGIN = 640, 260, 48
#: Beside the vertical axis stand numbers of up to ten characters, like -1.234e-05.
_LEFT = 68


def chart_svg(chart: Chart) -> str:
    """``chart`` as an SVG element, its texts escaped. Colours are attributes, which the style sheet may change."""
    xs = [x for line in chart.lines for x, y in zip(line.x, line.y, strict=True) if y is not None]
    ys = [y for line in chart.lines for y in line.y if y is not None]
    if not xs:
        return "<p>nothing to draw</p>"
    if chart.diagonal:
        xs, ys = [0.0, *xs, *ys], [0.0, *xs, *ys]
    left, right = _range(xs)
    marks = _marks(ys)
    low, high = marks[0], marks[-1]

    def across(x: float) -> str:
        return f"{_LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _MARGIN):.1f}"

    def down(y: float) -> str:
        return f"{_HEIGHT - _MARGIN - (y - low) / (high - low) * (_HEIGHT - 2 * _MARGIN):.1f}"

    def at(x: float, y: float) -> str:
        return f"{across(x)},{down(y)}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    for y in marks:
        parts.append(f'<path d="M{at(left, y)}L{at(right, y)}" stroke="#ddd"/>')
        place = f'x="{_LEFT - 4}" y="{down(y)}" text-anchor="end" dominant-baseline="middle"'
        parts.append(f"<text {place}>{y:.4g}</text>")
    ticks = chart.ticks or [(x, f"{x:.3g}") for x in np.linspace(left, right, 5).tolist()]
    for x, label in ticks:
        parts.append(
            f'<text x="{across(x)}" y="{_HEIGHT - _MARGIN + 16}" text-anchor="middle">{html.escape(label)}</text>'
        )
    if chart.diagonal:
        begin, end = max(left, low), min(right, high)
        parts.append(f'<path d="M{at(begin, begin)}L{at(end, end)}" stroke="#999" stroke-dasharray="4 4"/>')
    for number, line in enumerate(chart.lines):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path d="{_path(line, at)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        left_of = _LEFT + min(150, (_WIDTH - _LEFT - _MARGIN) // len(chart.lines)) * number
        parts.append(f'<text x="{left_of}" y="16" fill="{colour}">{html.escape(line.name)}</text>')
    return "".join([*parts, "</svg>"])


def _path(line: ChartLine, at: Callable[[float, float], str]) -> str:
    pieces, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if y is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{at(x, y)}")
        pen = "L"
    return "".join(pieces)


def _marks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers in even steps of 1, 2 or 5 times a power of ten, which ``values`` lie between."""
    low, high = min(values), max(values)
    if high - low < max(abs(low), abs(high)) * 1e-12 or high - low < sys.float_info.min * 10:  # one, but for rounding
        room = abs(low) * 0.05 if abs(low) > sys.float_info.min * 1e3 else 1.0
        low, high = low - room, high + room
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room
