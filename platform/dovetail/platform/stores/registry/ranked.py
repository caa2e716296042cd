"""Ranking metrics of models; a table of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.registry.by_scope import ScopeUpsert, newest_by_scope, read_by_scope, scope_table
from dovetail.platform.stores.sql.database import Database

__all__ = ["RankingRow", "RankingTable"]


class RankingRow(NamedTuple):
    """Ranking metrics of a model in one scope, means over requests with both classes; ``trained`` as in MetricRow.

    Without such a request the means are None. ``at`` is the k of NDCG@k and hit rate@k.
    """

    model: str
    scope: str
    trained: int
    at: int
    requests: int
    without_positive: int
    without_negative: int
    impressions: int
    gauc: float | None
    ndcg: float | None
    mrr: float | None
    hit_rate: float | None


class RankingTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._table = scope_table(
            "model_rankings",
            metadata,
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in RankingRow._fields[3:8]),
            *(sa.Column(name, sa.Double) for name in RankingRow._fields[8:]),
        )
        self._upsert = ScopeUpsert(self._table)

    def add(self, connection: sa.Connection, database: Database, rows: Sequence[RankingRow]) -> None:
        """Store rows; the same model, scope and ``trained`` again replaces them."""
        self._upsert.put(connection, database, rows)

    def of(self, connection: sa.Connection, database: Database, model: str) -> list[RankingRow]:
        """The rows of ``model``, by samples trained on, then scope."""
        ordered = self._of(model).order_by(self._table.c.trained, self._table.c.scope)
        return read_by_scope(connection, database, ordered, RankingRow)

    def newest(
        self, connection: sa.Connection, database: Database, model: str, scopes: str, most: int
    ) -> list[RankingRow]:
        """The newest rows of ``model`` whose scope begins with ``scopes``, ``most`` of them, by samples trained on."""
        return newest_by_scope(connection, database, self._of(model), self._table, RankingRow, scopes, most)

    def _of(self, model: str) -> sa.Select[Any]:
        columns = self._table.c
        return sa.select(*(columns[name] for name in RankingRow._fields)).where(columns.model == model)
