"""Ranking metrics of models; a table of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.bulk import Upsert, columns_of
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.keys import storable, unescaped

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
        keys = {"model": sa.Text, "scope": sa.Text, "trained": sa.BigInteger}
        self._table = sa.Table(
            "model_rankings",
            metadata,
            *(sa.Column(name, kind, primary_key=True) for name, kind in keys.items()),
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in RankingRow._fields[3:8]),
            *(sa.Column(name, sa.Double) for name in RankingRow._fields[8:]),
        )

    def add(self, connection: sa.Connection, database: Database, rows: Sequence[RankingRow]) -> None:
        """Store rows; the same model, scope and ``trained`` again replaces them."""
        upsert = Upsert(database, self._table)
        upsert.replacing({name: upsert.excluded[name] for name in RankingRow._fields[3:]})
        if database.postgresql:  # a slice is named by a value
            rows = [row._replace(scope=storable(row.scope)) for row in rows]
        upsert.execute(connection, columns_of(rows))

    def of(self, connection: sa.Connection, database: Database, model: str) -> list[RankingRow]:
        """The rows of ``model``, by samples trained on, then scope."""
        columns = self._table.c
        ordered = (
            sa.select(*(columns[name] for name in RankingRow._fields))
            .where(columns.model == model)
            .order_by(columns.trained, columns.scope)
        )
        rows = [RankingRow(*row) for row in connection.execute(ordered)]
        return [row._replace(scope=unescaped(row.scope)) for row in rows] if database.postgresql else rows
