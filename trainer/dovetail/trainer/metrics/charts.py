"""Charts as data, and the charts of a model's metrics: drawn by ``plots.py``, and in the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.metrics.measures import Metrics

__all__ = ["COLOURS", "Chart", "ChartLine", "reliability", "windows_charts"]

#: Lines by their order, in every format.
COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#8d6a9f", "#b08900")


_CALIBRATION = ("calibration (Σp / Σy)", "calibration")
_OF_CLASSES = (("log-loss", "log_loss"), ("AUC", "auc"), _CALIBRATION)
_OF_NUMBERS = (("RMSE", "rmse"), ("MAE", "mae"), ("Poisson deviance", "poisson_deviance"), _CALIBRATION)


class ChartLine(NamedTuple):
    """A named series; points whose y is None are left out and break the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


class Chart(NamedTuple):
    """Lines over one pair of axes. ``ticks`` name places on the x axis, some of which are labelled.

    ``diagonal`` adds y = x.
    """

    title: str
    lines: Sequence[ChartLine]
    ticks: Sequence[tuple[float, str]] = ()
    diagonal: bool = False


def windows_charts(series: Sequence[tuple[str, Sequence[tuple[str, Metrics]]]]) -> list[Chart]:
    """Loss, AUC and calibration over windows, as the models have them: a line per named series of (window, metrics)."""
    labels = sorted({window for _, windows in series for window, _ in windows})
    place = {window: float(number) for number, window in enumerate(labels)}
    ticks = [(place[window], window.removeprefix("time:")[:16]) for window in labels]
    charts = []
    every = [m for _, windows in series for _, m in windows]
    numbers = any(m.rmse is not None for m in every)
    for title, metric in _OF_NUMBERS if numbers else _OF_CLASSES:
        if metric == "poisson_deviance" and all(m.poisson_deviance is None for m in every):
            continue
        lines = [
            ChartLine(name, [place[window] for window, _ in windows], [getattr(m, metric) for _, m in windows])
            for name, windows in series
        ]
        charts.append(Chart(title, lines, ticks))
    return charts


def reliability(name: str, predictions: Float32, labels: Float32, weights: Float32, *, groups: int = 20) -> ChartLine:
    """Mean label over mean prediction, in ``groups`` groups of equally many predictions, by ascending prediction."""
    x, y = [], []
    for rows in np.array_split(np.argsort(predictions, kind="stable"), groups):
        total = float(weights[rows].sum())
        if total > 0:
            x.append(float((predictions[rows] * weights[rows]).sum()) / total)
            y.append(float((labels[rows] * weights[rows]).sum()) / total)
    return ChartLine(name, x, y)
