"""Charts as one Vega-Lite specification: what every format of a plot is drawn from, and the console's charts, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dovetail.trainer.metrics.axes import LARGEST, AxisOptions, axis_of_numbers, label_expression
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine
from dovetail.trainer.metrics.legends import legend

__all__ = ["chart_specification", "specification"]

_WIDTH, _HEIGHT = 560, 190
#: Of the places that are named on an axis, so many are labelled.
_LABELS = 6
#: Of a legend, in a chart as wide as its element: on a phone that has some 330 pixels, of which the axis takes a part.
_NARROW = 240
_CONFIG = {
    "font": "Liberation Sans, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#ddd", "domain": False, "tickColor": "#ddd", "labelColor": "#333"},
    "legend": {"orient": "top", "title": None, "symbolType": "stroke", "labelColor": "#333"},
    "title": {"anchor": "start", "frame": "group", "fontSize": 13, "color": "#333"},
}


def specification(title: str, charts: Sequence[Chart]) -> dict[str, Any]:
    """``charts`` below one another, with their data; nothing in it refers to elsewhere.

    Points that are None, not finite or beyond 1e300 break their line. A chart without any other says that there is
    nothing to draw.
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
    return {**ground, **_view(chart, _NARROW), **fitted}


def _drawn(chart: Chart) -> dict[str, Any]:
    return {"title": {"text": chart.title}, "width": _WIDTH, **_view(chart, _WIDTH)}


def _view(chart: Chart, legend_width: int) -> dict[str, Any]:
    points = [point for number, line in enumerate(chart.lines) for point in _points(number, line)]
    if not points:
        mark = {"type": "text", "text": "nothing to draw", "align": "left", "x": 0, "color": "#333"}
        return {"height": 20, "data": {"values": [{}]}, "mark": mark}
    # Below the lines, and through the corner (0, 0).
    diagonal = _diagonal(max(max(point["x"], point["y"]) for point in points)) if chart.diagonal else []
    layers = [_lines(chart, points, [*diagonal, *points], legend_width)]
    if diagonal:
        mark = {"type": "line", "color": "#999", "strokeDash": [4, 4], "strokeWidth": 1}
        encoding = {side: {"field": side, "type": "quantitative"} for side in ("x", "y")}
        layers.insert(0, {"data": {"values": diagonal}, "mark": mark, "encoding": encoding})
    return {"height": _HEIGHT, "layer": layers}


def _points(number: int, line: ChartLine) -> Iterator[dict[str, Any]]:
    """The points of a line, each with the ``run`` it is in: one of neighbours that nothing breaks."""
    run = 0
    for x, y in zip(line.x, line.y, strict=True):
        if y is None or not abs(x) <= LARGEST or not abs(y) <= LARGEST:
            run += 1
        else:
            yield {"x": float(x), "y": float(y), "line": line.name, "run": f"{number}/{run}"}


def _lines(
    chart: Chart, points: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Any]], legend_width: int
) -> dict[str, Any]:
    """The layer of ``points``, whose axes are those of all that is ``drawn``."""
    names = list(dict.fromkeys(line.name for line in chart.lines))
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    x = _named(chart.ticks) if chart.ticks else axis_of_numbers([point["x"] for point in drawn])
    y = axis_of_numbers([point["y"] for point in drawn])
    return {
        "data": {"values": points},
        # Dots, because a run of a single point has no line.
        "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 12, "aria": False}},
        "encoding": {
            "x": {
                "field": "x", "type": "quantitative",
                "scale": {"zero": False, "nice": False, **x.scale}, "axis": {"title": None, "grid": False, **x.axis},
            },
            "y": {
                "field": "y", "type": "quantitative",
                "scale": {"zero": False, **y.scale}, "axis": {"title": None, **y.axis},
            },
            "color": {
                "field": "line", "type": "nominal",
                "scale": {"domain": names, "range": colours}, "legend": legend(names, legend_width),
            },
            "detail": {"field": "run", "type": "nominal"},
        },
    }  # fmt: skip


def _named(ticks: Sequence[tuple[float, str]]) -> AxisOptions:
    shown = ticks[:: -(-len(ticks) // _LABELS)]
    places, labels = [x for x, _ in shown], [label for _, label in shown]
    return AxisOptions({}, {"values": places, "labelExpr": label_expression(places, labels)})


def _diagonal(end: float) -> list[dict[str, float]]:
    return [{"x": 0.0, "y": 0.0}, {"x": end, "y": end}]
