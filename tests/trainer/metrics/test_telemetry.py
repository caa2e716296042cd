"""Metric rows in the registry, gauges in Prometheus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from dovetail.platform.stores.registry.store import Registry
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.requests import RankingMetrics
from dovetail.trainer.metrics.telemetry import ModelMetrics, metric_rows, ranking_rows


def metrics(positives: int) -> Metrics:
    evaluation = Evaluation()
    labels = (np.arange(10) < positives).astype(np.float32)
    evaluation.add(np.full(10, 0.25, np.float32), labels, np.ones(10, np.float32))
    return evaluation.total()


def test_rows_come_back_and_windows_are_kept_once(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    registry.add_metrics([])
    scoped = [("total", metrics(3)), ("time:2026-01-01T00:00:00Z", metrics(0))]
    registry.add_metrics(metric_rows("m", 100, scoped))
    registry.add_metrics(metric_rows("m", 200, [("total", metrics(4)), ("time:2026-01-01T00:00:00Z", metrics(5))]))
    rows = registry.metrics("m")
    assert [(row.trained, row.scope, row.positive) for row in rows] == [
        (0, "time:2026-01-01T00:00:00Z", 5.0), (100, "total", 3.0), (200, "total", 4.0),
    ]  # fmt: skip
    assert rows[1] == metric_rows("m", 100, scoped)[0]
    assert rows[1].false_negative == 3.0
    assert registry.metrics("other") == []
    registry.close()


def test_gauges_show_the_newest_and_leave_out_what_has_no_value() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        gauges = ModelMetrics("m", registry)
    gauges.update(10, [("total", metrics(3)), ("slice:a=b", metrics(0)), ("time:x", metrics(1))])
    gauges.update(20, [("total", metrics(4))])
    labels = {"model": "m", "scope": "total"}
    assert registry.get_sample_value("dovetail_model_calibration", labels) == 2.5 / 4
    assert registry.get_sample_value("dovetail_model_trained_samples", {"model": "m"}) == 20
    other = {"model": "m", "scope": "slice:a=b"}
    assert registry.get_sample_value("dovetail_model_samples", other) == 10
    assert registry.get_sample_value("dovetail_model_calibration", other) is None
    assert registry.get_sample_value("dovetail_model_samples", {"model": "m", "scope": "time:x"}) is None


def test_rankings_are_kept_and_shown_with_their_scope(tmp_path: Path) -> None:
    ranking = RankingMetrics(10, 4, 3, 2, 40, 0.75, 0.5, 0.25, 1.0)
    nothing = RankingMetrics(10, 0, 3, 2, 0, None, None, None, None)
    scoped = [
        ("total", metrics(3).with_ranking(ranking)),
        ("recent", metrics(3)),
        ("time:2026-01-01T00:00:00Z", metrics(3).with_ranking(nothing)),
    ]
    store = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    store.add_rankings([])
    for trained in (100, 200):
        store.add_rankings(ranking_rows("m", trained, scoped))
    rows = store.rankings("m")
    assert [(row.trained, row.scope, row.gauc) for row in rows] == [
        (0, "time:2026-01-01T00:00:00Z", None), (100, "total", 0.75), (200, "total", 0.75),
    ]  # fmt: skip
    assert rows[1] == ranking_rows("m", 100, scoped)[0]
    assert store.rankings("other") == []
    store.close()
    registry = CollectorRegistry()
    ModelMetrics("m", registry).update(10, scoped)
    labels = {"model": "m", "scope": "total"}
    shown = ("gauc", "ndcg", "mrr", "hit_rate", "ranked_requests", "requests_without_positive")
    values = [registry.get_sample_value(f"dovetail_model_{name}", labels) for name in shown]
    assert values == [0.75, 0.5, 0.25, 1.0, 4, 3]
    assert registry.get_sample_value("dovetail_model_gauc", {"model": "m", "scope": "recent"}) is None
