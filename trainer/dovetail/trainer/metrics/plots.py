"""Plots as one HTML file of inline SVG, or as SVG alone: no library, no network, opens everywhere. PNG needs one."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine
from dovetail.trainer.metrics.png import write_png

__all__ = ["chart_svg", "drawing", "page", "write_plots"]

_WIDTH, _HEIGHT, _MARGIN = 640, 260, 48
_STYLE = "text{font:11px system-ui,sans-serif}text:not([fill]){fill:#333}"


def write_plots(path: Path, title: str, charts: Sequence[Chart], notes: Sequence[str] = ()) -> None:
    """Write ``charts`` as the suffix of ``path`` says: .html (with ``notes``), .svg, or .png, which needs matplotlib.

    :raises ConfigError: another suffix, or matplotlib is not installed.
    """
    if path.suffix == ".html":
        path.write_text(page(title, charts, notes), encoding="utf-8")
    elif path.suffix == ".svg":
        path.write_text(drawing(title, charts), encoding="utf-8")
    elif path.suffix == ".png":
        # A second's import, and a library that is not there everywhere.
        write_png(path, title, charts)
    else:
        raise ConfigError(f"{path}: plots are written as .html, .svg or .png; name such a file")


def drawing(title: str, charts: Sequence[Chart]) -> str:
    """``charts`` below one another as one SVG document."""
    step = _HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {step * len(charts) + 30}" role="img">',
        f"<style>{_STYLE}.h{{font-weight:600;font-size:13px}}</style><title>{html.escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="h" x="{_WIDTH / 2:g}" y="20" text-anchor="middle">{html.escape(title)}</text>',
    ]
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate(0 {30 + number * step})">')
        parts.append(f'<text class="h" x="{_MARGIN}" y="14">{html.escape(chart.title)}</text>')
        parts.append(f'<g transform="translate(0 18)">{chart_svg(chart, alone=False)}</g></g>')
    return "\n".join([*parts, "</svg>\n"])


def page(title: str, charts: Sequence[Chart], notes: Sequence[str] = ()) -> str:
    """An HTML page of ``charts`` with ``notes`` below them."""
    body = "\n".join(f"<figure><figcaption>{html.escape(c.title)}</figcaption>{chart_svg(c)}</figure>" for c in charts)
    text = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:14px system-ui,sans-serif;margin:2rem;max-width:44rem}figure{margin:0 0 1.5rem}"
        f"figcaption{{font-weight:600}}svg{{width:100%;height:auto}}{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n{text}\n</body></html>\n"
    )


def chart_svg(chart: Chart, *, alone: bool = True) -> str:
    """``chart`` as an SVG element, its texts escaped; not ``alone``: as what stands inside of one."""
    xs = [x for line in chart.lines for x, y in zip(line.x, line.y, strict=True) if y is not None]
    ys = [y for line in chart.lines for y in line.y if y is not None]
    if not xs:
        return "<p>nothing to draw</p>" if alone else f'<text x="{_MARGIN}" y="30">nothing to draw</text>'
    if chart.diagonal:
        xs, ys = [0.0, *xs, *ys], [0.0, *xs, *ys]
    left, right, low, high = *_range(xs), *_range(ys)

    def at(x: float, y: float) -> str:
        across = _MARGIN + (x - left) / (right - left) * (_WIDTH - 2 * _MARGIN)
        down = _HEIGHT - _MARGIN - (y - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    for number in range(5):
        y = low + (high - low) * number / 4
        (x1, y1), (x2, _) = (at(side, y).split(",") for side in (left, right))
        parts.append(f'<path d="M{x1},{y1}L{x2},{y1}" stroke="#ddd"/>')
        parts.append(f'<text x="{_MARGIN - 4}" y="{y1}" text-anchor="end" dominant-baseline="middle">{y:.4g}</text>')
    ticks = chart.ticks or [(x, f"{x:.3g}") for x in np.linspace(left, right, 5).tolist()]
    for x, label in ticks:
        across = at(x, low).split(",")[0]
        parts.append(
            f'<text x="{across}" y="{_HEIGHT - _MARGIN + 16}" text-anchor="middle">{html.escape(label)}</text>'
        )
    if chart.diagonal:
        parts.append(f'<path d="M{at(left, left)}L{at(right, right)}" stroke="#999" stroke-dasharray="4 4"/>')
    for number, line in enumerate(chart.lines):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path d="{_path(line, at)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        left_of = _MARGIN + min(150, (_WIDTH - 2 * _MARGIN) // len(chart.lines)) * number
        parts.append(f'<text x="{left_of}" y="16" fill="{colour}">{html.escape(line.name)}</text>')
    return "".join([*parts, "</svg>"]) if alone else "".join(parts[1:])


def _path(line: ChartLine, at: Callable[[float, float], str]) -> str:
    pieces, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if y is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{at(x, y)}")
        pen = "L"
    return "".join(pieces)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room
