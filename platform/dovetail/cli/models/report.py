"""Metrics on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from dovetail.cli.listing import Column, Listing
from dovetail.trainer.metrics.measures import Metrics

__all__ = ["metrics_dict", "metrics_table"]


def metrics_dict(metrics: Metrics) -> dict[str, Any]:
    """``metrics`` as JSON-ready values."""
    return asdict(metrics)


def metrics_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> Listing:
    """One line per scope, the confusion matrix of the first one below. An AUC is exact as shown, or has its ±."""
    numbers = ("samples", "positive", "log-loss", "AUC", "NE", "Σp/Σy", "accuracy")
    columns = [Column("scope", "prose", least=12), *(Column(name, "number") for name in numbers)]
    table = Listing(title, columns, note=_confusion(rows[0][1]) if rows else "")
    for scope, m in rows:
        auc = _number(m.auc)
        if m.auc_error is not None and m.auc_error >= 0.00005:
            auc += f"±{m.auc_error:.4f}"
        rates = [_number(m.log_loss), auc, _number(m.normalised_entropy), _number(m.calibration), _number(m.accuracy)]
        table.add(_shown(scope), f"{m.samples:,}", f"{m.positive:,.0f}", *rates)
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
