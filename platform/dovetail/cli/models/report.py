"""Metrics on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from dovetail.trainer.metrics.measures import Metrics

__all__ = ["metrics_dict", "metrics_table"]


def metrics_dict(metrics: Metrics) -> dict[str, Any]:
    """``metrics`` as JSON-ready values."""
    return asdict(metrics)


def metrics_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> Table:
    """One line per scope, the confusion matrix of the first one below. An AUC is exact as shown, or has its ±."""
    table = Table(title=title, caption=_confusion(rows[0][1]) if rows else None)
    table.add_column("scope", overflow="fold")
    for column in ("samples", "positive", "log-loss", "AUC", "NE", "Σp/Σy", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for scope, m in rows:
        auc = _number(m.auc)
        if m.auc_error is not None and m.auc_error >= 0.00005:
            auc += f"±{m.auc_error:.4f}"
        table.add_row(
            scope, f"{m.samples:,}", f"{m.positive:,.0f}", _number(m.log_loss), auc, _number(m.normalised_entropy),
            _number(m.calibration), _number(m.accuracy),
        )  # fmt: skip
    return table


def _confusion(m: Metrics) -> str:
    c = m.confusion
    return (
        f"at p ≥ 0.5: {c.true_positive:,.0f} true and {c.false_positive:,.0f} false positives, "
        f"{c.true_negative:,.0f} true and {c.false_negative:,.0f} false negatives"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
