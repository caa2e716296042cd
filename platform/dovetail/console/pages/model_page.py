"""The page of the model: its metrics over time and by slice, its reliability, its versions, the weights that moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from dovetail.api.describing import models_of
from dovetail.app.looking.model_history import (
    ModelMetricsHistory,
    metrics_history,
    moved_weights,
    rankings_history,
    recent_reliability,
)
from dovetail.app.looking.shadow_scores import shadow_beside
from dovetail.console.chart_figures import shown_chart
from dovetail.console.looked import Looked
from dovetail.platform.errors import ModelError
from dovetail.platform.stores.registry.ranked import RankingRow
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.losses import PRIORS, Loss
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine

__all__ = ["charts_of", "model_page", "ranking_charts"]

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
#: Ranking metrics, means over requests: title, field of :class:`RankingRow`. k is the project's ``ranking_at``.
_RANKINGS = (("GAUC", "gauc"), ("NDCG@k", "ndcg"), ("MRR", "mrr"), ("hit rate@k", "hit_rate"))
_WEIGHTS, _VERSIONS, _SCORED = 30, 50, 50_000

#: Titles and fields.
Titled: TypeAlias = Sequence[tuple[str, str]]
R = TypeVar("R", MetricRow, RankingRow)


def model_page(looked: Looked) -> dict[str, Any]:
    """All of it, of what the newest few thousand metrics, samples and two versions say."""
    model = looked.project.config.model
    if model is None:
        return {"model": None}
    history = metrics_history(looked.stores, model.name)
    ranked = rankings_history(looked.stores, model.name)
    try:
        weights, before, after = moved_weights(looked.project, looked.stores, _WEIGHTS)
        unread = ""
    except ModelError as error:
        weights, before, after, unread = [], 0, 0, str(error)
    reliable = recent_reliability(looked.stores, model)
    charts = [*charts_of(history, model.loss), *ranking_charts(ranked)]
    if reliable is not None:
        observed = "observed rate" if model.loss == "logistic" else f"mean {model.label}"
        charts.append(Chart(f"{observed} over mean score", [reliable[0]], diagonal=True))
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
        "slices": _newest(history),
        "charts": [shown_chart(chart) for chart in charts],
        "rankings": _RANKINGS,
        "ranked": {**({"all": ranked.total[-1]} if ranked.total else {}), **_newest(ranked)},
        "scored": 0 if reliable is None else reliable[1],
        "weights": weights,
        "between": (before, after),
        "unread": unread,
    }


def charts_of(history: ModelMetricsHistory[MetricRow], loss: Loss) -> list[Chart]:
    """Each metric of the loss over windows of event time, and over samples trained by slice, largest slices first."""
    titled = [(title if name != "calibration" else f"{title} (Σp / Σy)", name) for title, name in _MEASURES[loss]]
    return [*_by_time(history.windows, titled), *_by_slice(history.slices, titled)]


def ranking_charts(history: ModelMetricsHistory[RankingRow]) -> list[Chart]:
    """Each ranking metric over windows of event time."""
    at = history.windows[-1].at if history.windows else 0
    return _by_time(history.windows, [(title.replace("@k", f"@{at}"), name) for title, name in _RANKINGS])


def _newest(history: ModelMetricsHistory[R]) -> dict[str, R]:
    return {name: rows[-1] for name, rows in sorted(history.slices.items())}


def _by_time(windows: Sequence[MetricRow] | Sequence[RankingRow], titled: Titled) -> list[Chart]:
    if len(windows) < 2:
        return []
    ticks, x = _ticks(windows), [float(number) for number in range(len(windows))]
    return [
        Chart(f"{title}, by time of the request", [ChartLine("all", x, [getattr(row, name) for row in windows])], ticks)
        for title, name in titled
    ]


def _by_slice(slices: dict[str, list[MetricRow]], titled: Titled) -> list[Chart]:
    largest = sorted(slices.items(), key=lambda item: -item[1][-1].samples)[: len(COLOURS)]
    charts = []
    for title, measure in titled:
        lines = [
            ChartLine(name, [float(row.trained) for row in rows], [getattr(row, measure) for row in rows])
            for name, rows in largest
            if len(rows) > 1
        ]
        if lines:
            charts.append(Chart(f"{title} by slice, over samples trained on", lines))
    return charts


def _ticks(rows: Sequence[MetricRow] | Sequence[RankingRow]) -> list[tuple[float, str]]:
    return [(float(at), rows[at].scope.removeprefix("time:")[5:16].replace("T", " ")) for at in range(len(rows))]
