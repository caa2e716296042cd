"""Metrics for others: rows for the registry, gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from dovetail.platform.stores.registry.ranked import RankingRow
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.metrics.measures import Confusion, Metrics
from dovetail.trainer.metrics.requests import RankingMetrics

__all__ = ["ModelMetrics", "metric_rows", "ranking_rows"]

_GAUGES = ("samples", "log_loss", "auc", "auc_error", "normalised_entropy", "calibration", "accuracy", "rmse", "mae",
           "poisson_deviance")  # fmt: skip
# Numbers as they are: astuple() copies each of them, which takes longer than all else in a row.
_confused = attrgetter(*(field.name for field in fields(Confusion)))
_ranked = attrgetter(*(field.name for field in fields(RankingMetrics)))
_RANKING = {
    "requests": "ranked_requests", "without_positive": "requests_without_positive",
    "without_negative": "requests_without_negative", "gauc": "gauc", "ndcg": "ndcg", "mrr": "mrr",
    "hit_rate": "hit_rate",
}  # fmt: skip


def metric_rows(model: str, trained: int, metrics: Sequence[tuple[str, Metrics]]) -> list[MetricRow]:
    """``metrics`` by scope as rows of the registry; event-time windows are kept once, in their newest state."""
    rows = []
    for scope, m in metrics:
        numbers = (m.samples, m.weight, m.positive, m.log_loss, m.auc, m.auc_error, m.normalised_entropy,
                   m.calibration, m.accuracy)  # fmt: skip
        at = 0 if scope.startswith("time:") else trained
        row = MetricRow(model, scope, at, *numbers, *_confused(m.confusion))
        rows.append(row._replace(rmse=m.rmse, mae=m.mae, poisson_deviance=m.poisson_deviance))
    return rows


def ranking_rows(model: str, trained: int, metrics: Sequence[tuple[str, Metrics]]) -> list[RankingRow]:
    """Those of ``metrics`` that have rankings, as rows of the registry, kept as :func:`metric_rows` are."""
    return [
        RankingRow(model, scope, 0 if scope.startswith("time:") else trained, *_ranked(m.ranking))
        for scope, m in metrics
        if m.ranking is not None
    ]


class ModelMetrics:
    """Gauges ``dovetail_model_<metric>{model, scope}``, ``dovetail_model_trained_samples{model}`` and
    ``dovetail_model_damaged_files{model}``.

    Rankings are ``dovetail_model_gauc``, ``_ndcg``, ``_mrr``, ``_hit_rate``, ``_ranked_requests``,
    ``_requests_without_positive`` and ``_requests_without_negative``, of the same labels. Scopes are ``total``,
    ``recent`` and slices; event-time windows go to the registry only, as each would be a series of its own for ever. A
    metric without a value is not exposed. Making it twice for one Prometheus registry shares the gauges.
    """

    def __init__(self, model: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._model = model
        self._gauges = {name: _gauge(registry, name, f"Progressive {name} of a model", "scope") for name in _GAUGES}
        self._rankings = {
            name: _gauge(registry, shown, f"Progressive {shown} of a model, by request", "scope")
            for name, shown in _RANKING.items()
        }
        self._trained = _gauge(registry, "trained_samples", "Samples a model was trained on")

        self._damaged = _gauge(registry, "damaged_files", "Published files of a model that are damaged")

    def damaged(self, files: int) -> None:
        """Show from now on that so many published files are damaged."""
        self._damaged.labels(self._model).set(files)

    def update(self, trained: int, metrics: Sequence[tuple[str, Metrics]]) -> None:
        """Show these metrics from now on."""
        self._trained.labels(self._model).set(trained)
        for scope, of_scope in metrics:
            if scope.startswith("time:"):
                continue
            for gauges, of in ((self._gauges, of_scope), (self._rankings, of_scope.ranking)):
                for name, gauge in gauges.items():
                    value = getattr(of, name, None)
                    if value is not None:
                        gauge.labels(self._model, scope).set(value)


_MADE: dict[tuple[CollectorRegistry, str], Gauge] = {}


def _gauge(registry: CollectorRegistry, name: str, what: str, *labels: str) -> Gauge:
    """The gauge of that name; a registry refuses to have one made twice."""
    key = registry, name
    if key not in _MADE:
        _MADE[key] = Gauge(f"dovetail_model_{name}", what, ["model", *labels], registry=registry)
    return _MADE[key]
