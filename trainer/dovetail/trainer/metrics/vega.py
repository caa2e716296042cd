"""Charts as one Vega-Lite specification: what every format of a plot is drawn from, and the console's charts, too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine

__all__ = ["chart_specification", "specification"]

_WIDTH, _HEIGHT = 560, 190
#: Of the places that are named on an axis, so many are labelled.
_LABELS = 6
_CONFIG = {
    "font": "Liberation Sans, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#ddd", "domain": False, "tickColor": "#ddd", "labelColor": "#333"},
    # Names are shown whole, however long: two versions of a model often differ at the end of theirs.
    "legend": {"orient": "top", "title": None, "symbolType": "stroke", "labelLimit": 0, "labelColor": "#333"},
    "title": {"anchor": "start", "frame": "group", "fontSize": 13, "color": "#333"},
}


def specification(title: str, charts: Sequence[Chart]) -> dict[str, Any]:
    """``charts`` below one another, with their data; nothing in it refers to elsewhere.

    Points that are None or not finite break their line. A chart without any other says that there is nothing to draw.
    """
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": {"text": title, "fontSize": 15, "offset": 16},
        "description": title,
        "background": "#fff",
        "config": _CONFIG,
        "spacing": 28,
        "vconcat": [_drawn(chart) for chart in charts],
        "resolve": {"scale": {"color": "independent"}},
    }


def chart_specification(chart: Chart) -> dict[str, Any]:
    """``chart`` alone, as wide as the element of a page that it is drawn into, which has the title.

    It is drawn as in :func:`specification`, on the page's ground.
    """
    fitted = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    ground = {"background": "transparent", "config": _CONFIG, "description": chart.title}
    return {**ground, **_view(chart), **fitted}


def _drawn(chart: Chart) -> dict[str, Any]:
    return {"title": {"text": chart.title}, "width": _WIDTH, **_view(chart)}


def _view(chart: Chart) -> dict[str, Any]:
    points = [point for number, line in enumerate(chart.lines) for point in _points(number, line)]
    if not points:
        mark = {"type": "text", "text": "nothing to draw", "align": "left", "x": 0, "color": "#333"}
        return {"height": 20, "data": {"values": [{}]}, "mark": mark}
    layers = [_lines(chart, points)]
    if chart.diagonal:
        # Below the lines, and through the corner (0, 0).
        layers.insert(0, _diagonal(max(max(point["x"], point["y"]) for point in points)))
    return {"height": _HEIGHT, "layer": layers}


def _points(number: int, line: ChartLine) -> Iterator[dict[str, Any]]:
    """The points of a line, each with the ``run`` it is in: one of neighbours that nothing breaks."""
    run = 0
    for x, y in zip(line.x, line.y, strict=True):
        if y is None or not isfinite(x) or not isfinite(y):
            run += 1
        else:
            yield {"x": float(x), "y": float(y), "line": line.name, "run": f"{number}/{run}"}


def _lines(chart: Chart, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(line.name for line in chart.lines))
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    return {
        "data": {"values": points},
        # Dots, because a run of a single point has no line.
        "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 12, "aria": False}},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "scale": {"zero": False, "nice": False}, "axis": _ticks(chart)},
            "y": {"field": "y", "type": "quantitative", "scale": {"zero": False}, "axis": {"title": None}},
            "color": {"field": "line", "type": "nominal", "scale": {"domain": names, "range": colours}},
            "detail": {"field": "run", "type": "nominal"},
        },
    }


def _ticks(chart: Chart) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": None, "grid": False}
    if chart.ticks:
        shown = chart.ticks[:: -(-len(chart.ticks) // _LABELS)]
        places, labels = [x for x, _ in shown], [label for _, label in shown]
        # An expression of Vega: both lists are literals in it, so a label is a string whatever is written in it.
        axis |= {"values": places, "labelExpr": f"{json.dumps(labels)}[indexof({json.dumps(places)}, datum.value)]"}
    return axis


def _diagonal(end: float) -> dict[str, Any]:
    return {
        "data": {"values": [{"x": 0.0, "y": 0.0}, {"x": end, "y": end}]},
        "mark": {"type": "line", "color": "#999", "strokeDash": [4, 4], "strokeWidth": 1},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}},
    }
