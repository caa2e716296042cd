"""Metrics of models by scope and by samples trained on; tables of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.registry.by_scope import (
    SCOPE_KEYS,
    ScopeUpsert,
    newest_by_scope,
    read_by_scope,
    scope_table,
)
from dovetail.platform.stores.sql.database import Database

__all__ = ["MetricRow", "MetricTables"]


class MetricRow(NamedTuple):
    """Metrics of a model in one scope: ``total``, ``recent``, ``time:2026-11-20T13:00:00Z``, ``slice:column=value``.

    ``trained`` is the number of samples trained on when they were taken; 0 for event-time windows, of which only the
    newest state is kept. A metric without a value is None. Four are the weighted confusion matrix at 0.5, and the last
    three are of models of numbers.
    """

    model: str
    scope: str
    trained: int
    samples: int
    weight: float
    positive: float
    log_loss: float | None
    auc: float | None
    auc_error: float | None
    normalised_entropy: float | None
    calibration: float | None
    accuracy: float | None
    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float
    rmse: float | None = None
    mae: float | None = None
    poisson_deviance: float | None = None


#: The metrics that came later have a table of their own: one that is there gets no further columns.
_LATER = ("rmse", "mae", "poisson_deviance")


class MetricTables:
    """The tables, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._metrics = scope_table(
            "model_metrics",
            metadata,
            sa.Column("samples", sa.BigInteger, nullable=False),
            *(sa.Column(name, sa.Double) for name in MetricRow._fields[4:] if name not in _LATER),
        )
        self._numbers = scope_table("model_number_metrics", metadata, *(sa.Column(name, sa.Double) for name in _LATER))
        self._put_metrics, self._put_numbers = ScopeUpsert(self._metrics), ScopeUpsert(self._numbers)

    def add(self, connection: sa.Connection, database: Database, rows: Sequence[MetricRow]) -> None:
        """Store metrics; the same model, scope and ``trained`` again replaces them."""
        of_numbers = [row for row in rows if any(getattr(row, name) is not None for name in _LATER)]
        self._put_metrics.put(connection, database, rows)
        self._put_numbers.put(connection, database, of_numbers)

    def of(self, connection: sa.Connection, database: Database, model: str) -> list[MetricRow]:
        """The metrics of ``model``, by samples trained on, then scope."""
        columns = self._metrics.c
        ordered = self._selected().where(columns.model == model).order_by(columns.trained, columns.scope)
        return read_by_scope(connection, database, ordered, MetricRow)

    def newest(
        self, connection: sa.Connection, database: Database, model: str, scopes: str, most: int
    ) -> list[MetricRow]:
        """The newest metrics of ``model`` whose scope begins with ``scopes``, ``most`` rows, by samples trained on."""
        of_model = self._selected().where(self._metrics.c.model == model)
        return newest_by_scope(connection, database, of_model, self._metrics, MetricRow, scopes, most)

    def _selected(self) -> sa.Select[Any]:
        columns, numbers = self._metrics.c, self._numbers.c
        same = sa.and_(*(columns[name] == numbers[name] for name in SCOPE_KEYS))
        found = sa.select(*((numbers if name in _LATER else columns)[name] for name in MetricRow._fields))
        return found.select_from(self._metrics.outerjoin(self._numbers, same))
