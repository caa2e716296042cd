"""Metrics on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console

from dovetail.cli.listing import Column, Listing
from dovetail.trainer.metrics.measures import Metrics

__all__ = ["metrics_dict", "metrics_table", "number_text", "print_metrics", "rankings_table"]


def metrics_dict(metrics: Metrics) -> dict[str, Any]:
    """``metrics`` as JSON-ready values."""
    return asdict(metrics)


def print_metrics(console: Console, title: str, rows: Sequence[tuple[str, Metrics]]) -> None:
    """Print the metrics of examples, and below them those of rankings, where there are any."""
    metrics_table(title, rows).print(console)
    if any(m.ranking is not None for _, m in rows):
        rankings_table(rows).print(console)


def rankings_table(rows: Sequence[tuple[str, Metrics]]) -> Listing:
    """One line per scope whose requests are known; requests of one class stand apart."""
    ranked = [(scope, m.ranking) for scope, m in rows if m.ranking is not None]
    at = ranked[0][1].at if ranked else 0
    numbers = ("requests", "no positive", "no negative", "GAUC", f"NDCG@{at}", "MRR", f"hit@{at}")
    columns = [Column("scope", "prose", least=12), *(Column(name, "number") for name in numbers)]
    note = "means over requests with both classes, GAUC weighted by their impressions"
    table = Listing("rankings, by request", columns, note=note)
    for scope, r in ranked:
        counts = [f"{n:,}" for n in (r.requests, r.without_positive, r.without_negative)]
        table.add(_shown(scope), *counts, *(number_text(x) for x in (r.gauc, r.ndcg, r.mrr, r.hit_rate)))
    return table


def metrics_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> Listing:
    """One line per scope, the confusion matrix of the first one below. An AUC is exact as shown, or has its ±."""
    if any(m.rmse is not None for _, m in rows):
        return _numbers_table(title, rows)
    numbers = ("samples", "positive", "log-loss", "AUC", "NE", "Σp/Σy", "accuracy")
    columns = [Column("scope", "prose", least=12), *(Column(name, "number") for name in numbers)]
    table = Listing(title, columns, note=_confusion(rows[0][1]) if rows else "")
    for scope, m in rows:
        auc = number_text(m.auc)
        if m.auc_error is not None and m.auc_error >= 0.00005:
            auc += f"±{m.auc_error:.4f}"
        rates = [
            number_text(m.log_loss),
            auc,
            number_text(m.normalised_entropy),
            number_text(m.calibration),
            number_text(m.accuracy),
        ]
        table.add(_shown(scope), f"{m.samples:,}", f"{m.positive:,.0f}", *rates)
    return table


def _numbers_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> Listing:
    """Metrics of models of numbers."""
    numbers = ("samples", "mean label", "RMSE", "MAE", "deviance", "Σp/Σy")
    table = Listing(title, [Column("scope", "prose", least=12), *(Column(name, "number") for name in numbers)])
    for scope, m in rows:
        mean = m.positive / m.weight if m.weight else None
        values = (mean, m.rmse, m.mae, m.poisson_deviance, m.calibration)
        table.add(_shown(scope), f"{m.samples:,}", *(number_text(value) for value in values))
    return table


def _shown(scope: str) -> str:
    """``time:2024-02-29T13:00:00Z`` as 2024-02-29 13:00; other scopes as they are."""
    if not scope.startswith("time:"):
        return scope
    moment = datetime.strptime(scope, "time:%Y-%m-%dT%H:%M:%S%z")
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment.second else f"{moment:%Y-%m-%d %H:%M}"


def _confusion(m: Metrics) -> str:
    c = m.confusion
    return (
        f"at p ≥ 0.5: {c.true_positive:,.0f} true and {c.false_positive:,.0f} false positives, "
        f"{c.true_negative:,.0f} true and {c.false_negative:,.0f} false negatives"
    )


def number_text(value: float | None) -> str:
    """A metric with four digits, ``-`` without one."""
    return "-" if value is None else f"{value:.4f}"
