"""Plots as PNG, drawn by matplotlib: the ``plots`` extra."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.charts import COLOURS, Chart

__all__ = ["write_png"]


def write_png(path: Path, title: str, charts: Sequence[Chart]) -> None:
    """Write ``charts`` below one another, 100 dots per inch.

    :raises ConfigError: matplotlib is not installed.
    """
    try:
        # Not pyplot, which keeps every figure alive and looks for a display.
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError(
            f"{path}: PNG needs matplotlib ({error}); install dovetail[plots], or write .html or .svg instead"
        ) from error
    figure = figures.Figure(figsize=(8, 3.6 * len(charts) + 0.5), layout="constrained")
    figure.suptitle(title)
    for number, chart in enumerate(charts):
        _draw(figure.add_subplot(len(charts), 1, number + 1), chart)
    figure.savefig(path, format="png", dpi=100)


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_title(chart.title, loc="left", fontsize=10)
    axes.grid(visible=True, axis="y", color="#dddddd")
    for number, line in enumerate(chart.lines):
        heights = [float("nan") if y is None else y for y in line.y]
        axes.plot(line.x, heights, label=line.name, color=COLOURS[number % len(COLOURS)], linewidth=1.6)
    if chart.diagonal:
        axes.axline((0.0, 0.0), slope=1.0, color="#999999", linestyle="--", linewidth=1.0)
    if chart.ticks:
        axes.set_xticks([x for x, _ in chart.ticks], [label for _, label in chart.ticks])
    if chart.lines:
        axes.legend(fontsize=8, frameon=False)
