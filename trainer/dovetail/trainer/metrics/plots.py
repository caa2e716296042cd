"""Plots as one HTML file of inline SVG, or as SVG alone: no library, no network, opens everywhere. PNG needs one."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dovetail.platform.errors import ConfigError
from dovetail.trainer.kernels import Float32
from dovetail.trainer.metrics import Metrics

__all__ = ["Chart", "Line", "drawing", "page", "reliability", "windows_charts", "write_plots"]

#: Lines by their order, in every format.
COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#8d6a9f", "#b08900")
_WIDTH, _HEIGHT, _MARGIN = 640, 260, 48
_STYLE = "text{font:11px system-ui,sans-serif;fill:#333}"


class Line(NamedTuple):
    """A named series; points whose y is None are left out and break the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


class Chart(NamedTuple):
    """Lines over one pair of axes. ``ticks`` name places on the x axis; ``diagonal`` adds y = x."""

    title: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]] = ()
    diagonal: bool = False


def windows_charts(series: Sequence[tuple[str, Sequence[tuple[str, Metrics]]]]) -> list[Chart]:
    """Log-loss, AUC and calibration over windows: one line per named series of (window, metrics)."""
    labels = sorted({window for _, windows in series for window, _ in windows})
    place = {window: float(number) for number, window in enumerate(labels)}
    step = max(1, len(labels) // 5)
    ticks = [(place[window], window.removeprefix("time:")[:16]) for window in labels[::step]]
    charts = []
    for title, metric in (("log-loss", "log_loss"), ("AUC", "auc"), ("calibration (Σp / Σy)", "calibration")):
        lines = [
            Line(name, [place[window] for window, _ in windows], [getattr(m, metric) for _, m in windows])
            for name, windows in series
        ]
        charts.append(Chart(title, lines, ticks))
    return charts


def reliability(name: str, predictions: Float32, labels: Float32, weights: Float32, *, groups: int = 20) -> Line:
    """Observed rate over mean prediction, in ``groups`` groups of equally many predictions, by ascending prediction."""
    x, y = [], []
    for rows in np.array_split(np.argsort(predictions, kind="stable"), groups):
        total = float(weights[rows].sum())
        if total > 0:
            x.append(float((predictions[rows] * weights[rows]).sum()) / total)
            y.append(float((labels[rows] * weights[rows]).sum()) / total)
    return Line(name, x, y)


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
        from dovetail.trainer.png import write_png

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
        parts.append(f'<g transform="translate(0 18)">{_svg(chart, alone=False)}</g></g>')
    return "\n".join([*parts, "</svg>\n"])


def page(title: str, charts: Sequence[Chart], notes: Sequence[str] = ()) -> str:
    """An HTML page of ``charts`` with ``notes`` below them."""
    body = "\n".join(f"<figure><figcaption>{html.escape(c.title)}</figcaption>{_svg(c)}</figure>" for c in charts)
    text = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:14px system-ui,sans-serif;margin:2rem;max-width:44rem}figure{margin:0 0 1.5rem}"
        f"figcaption{{font-weight:600}}svg{{width:100%;height:auto}}{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n{text}\n</body></html>\n"
    )


def _svg(chart: Chart, *, alone: bool = True) -> str:
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
        parts.append(f'<text x="{left_of}" y="16" style="fill:{colour}">{html.escape(line.name)}</text>')
    return "".join([*parts, "</svg>"]) if alone else "".join(parts[1:])


def _path(line: Line, at: Callable[[float, float], str]) -> str:
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
