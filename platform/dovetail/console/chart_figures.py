"""A chart as a page holds it: its specification, which the browser draws, and its figures, which everybody can read."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from dovetail.trainer.metrics.charts import Chart
from dovetail.trainer.metrics.vega import chart_specification

__all__ = ["ShownChart", "shown_chart"]

#: Rows of figures in a page; a chart may have thousands.
_ROWS = 48


class ShownChart(NamedTuple):
    """A chart in a page; ``specification`` is None where there is nothing to draw.

    ``rows`` are its newest figures, the newest first: a place on the x axis, and the value of each of ``lines`` there.
    ``left_out`` is how many more there are.
    """

    title: str
    specification: dict[str, Any] | None
    lines: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    left_out: int


def shown_chart(chart: Chart) -> ShownChart:
    """``chart`` to be drawn, with its figures beside it."""
    at: dict[float, list[float | None]] = {}
    for number, line in enumerate(chart.lines):
        for x, y in zip(line.x, line.y, strict=True):
            at.setdefault(float(x), [None] * len(chart.lines))[number] = y
    named = dict(chart.ticks)
    rows = [(named.get(x, f"{x:.6g}"), at[x]) for x in sorted(at, reverse=True)]
    empty = not any(y is not None and isfinite(y) for _, values in rows for y in values)
    drawn = None if empty else chart_specification(chart)
    return ShownChart(chart.title, drawn, [line.name for line in chart.lines], rows[:_ROWS], max(0, len(rows) - _ROWS))
