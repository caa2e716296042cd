"""The page of the model: its metrics over time and by slice, its reliability, its versions, the weights that moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from dovetail.api.describing import models_of
from dovetail.app.looking.model_history import ModelMetricsHistory, metrics_history, moved_weights, recent_reliability
from dovetail.app.looking.shadow_scores import shadow_beside
from dovetail.console.chart_picture import chart_svg
from dovetail.console.looked import Looked
from dovetail.platform.errors import ModelError
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.losses import PRIORS, Loss
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine

__all__ = ["charts_of", "model_page"]

_CLASSES = (("log-loss", "log_loss"), ("AUC", "auc"), ("normalised entropy", "normalised_entropy"))
_NUMBERS = (("RMSE", "rmse"), ("MAE", "mae"))
_DEVIANCE = ("Poisson deviance", "poisson_deviance")
_CALIBRATION = ("calibration", "calibration")
#: The metrics that a model of each loss has: title, field of :class:`MetricRow`.
_MEASURES: dict[Loss, tuple[tuple[str, str], ...]] = {
    "logistic": (*_CLASSES, _CALIBRATION),
    "squared": (*_NUMBERS, _CALIBRATION),
    "poisson": (*_NUMBERS, _DEVIANCE, _CALIBRATION),
}
_WEIGHTS, _VERSIONS, _SCORED = 30, 50, 50_000


def model_page(looked: Looked) -> dict[str, Any]:
    """All of it, of what the newest few thousand metrics, samples and two versions say."""
    model = looked.project.config.model
    if model is None:
        return {"model": None}
    history = metrics_history(looked.stores, model.name)
    try:
        weights, before, after = moved_weights(looked.project, looked.stores, _WEIGHTS)
        unread = ""
    except ModelError as error:
        weights, before, after, unread = [], 0, 0, str(error)
    reliable = recent_reliability(looked.stores, model)
    curve = None
    if reliable is not None:
        observed = "observed rate" if model.loss == "logistic" else f"mean {model.label}"
        curve = _drawn(Chart(f"{observed} over mean score", [reliable[0]], diagonal=True))
    published = models_of(looked.project, looked.stores)
    return {
        "model": model,
        "classes": model.loss == "logistic",
        "measures": _MEASURES[model.loss],
        "prior": PRIORS[model.loss],
        "published": published,
        "beside": shadow_beside(looked.stores, model, _SCORED),
        "versions": published["versions"][::-1][:_VERSIONS],
        "refused": looked.stores.models.refused(),
        "total": history.total[-1] if history.total else None,
        "windows": list(history.windows)[::-1],
        "slices": {name: rows[-1] for name, rows in sorted(history.slices.items())},
        "charts": [_drawn(chart) for chart in charts_of(history, model.loss)],
        "reliability": curve,
        "scored": 0 if reliable is None else reliable[1],
        "weights": weights,
        "between": (before, after),
        "unread": unread,
    }


def charts_of(history: ModelMetricsHistory, loss: Loss) -> list[Chart]:
    """Each metric of the loss over windows of event time, and over samples trained by slice, largest slices first."""
    charts = []
    ticks = _ticks(history.windows)
    for title, measure in _titled(loss):
        if len(history.windows) > 1:
            x = [float(number) for number in range(len(history.windows))]
            y = [getattr(row, measure) for row in history.windows]
            charts.append(Chart(f"{title}, by time of the request", [ChartLine("all", x, y)], ticks))
    largest = sorted(history.slices.items(), key=lambda item: -item[1][-1].samples)[: len(COLOURS)]
    for title, measure in _titled(loss):
        lines = [
            ChartLine(name, [float(row.trained) for row in rows], [getattr(row, measure) for row in rows])
            for name, rows in largest
            if len(rows) > 1
        ]
        if lines:
            charts.append(Chart(f"{title} by slice, over samples trained on", lines))
    return charts


def _titled(loss: Loss) -> list[tuple[str, str]]:
    return [(title if name != "calibration" else f"{title} (Σp / Σy)", name) for title, name in _MEASURES[loss]]


def _ticks(rows: Sequence[MetricRow]) -> list[tuple[float, str]]:
    step = max(1, len(rows) // 5)
    return [
        (float(at), rows[at].scope.removeprefix("time:")[5:16].replace("T", " ")) for at in range(0, len(rows), step)
    ]


def _drawn(chart: Chart) -> dict[str, Any]:
    # The drawing escapes the texts in it itself.
    return {"title": chart.title, "svg": Markup(chart_svg(chart))}  # noqa: S704
