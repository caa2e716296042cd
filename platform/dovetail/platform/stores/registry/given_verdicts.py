"""Verdicts that were given on what is stored, with what they said; a table of the registry."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

__all__ = ["Verdict", "VerdictTable"]

#: Of each kind so many are kept.
_KEPT = 200


class Verdict(NamedTuple):
    """A verdict of a ``kind``, like ``audit``, given ``at_us``; ``report`` is a text of the caller's."""

    kind: str
    at_us: int
    holds: bool
    report: str


class VerdictTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._table = sa.Table(
            "verdicts",
            metadata,
            sa.Column("kind", sa.Text, primary_key=True),
            sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("holds", sa.Boolean, nullable=False),
            sa.Column("report", sa.Text, nullable=False),
        )

    def add(self, connection: sa.Connection, verdict: Verdict) -> None:
        """Keep a verdict, in the place of one of the same kind and time; those before the last few hundred go."""
        mine = self._table.c.kind == verdict.kind
        connection.execute(sa.delete(self._table).where(mine, self._table.c.at_us == verdict.at_us))
        connection.execute(sa.insert(self._table), verdict._asdict())
        times = sa.select(self._table.c.at_us).where(mine).order_by(self._table.c.at_us.desc())
        oldest = connection.execute(times.limit(1).offset(_KEPT - 1)).scalar()
        if oldest is not None:
            connection.execute(sa.delete(self._table).where(mine, self._table.c.at_us < oldest))

    def newest(self, connection: sa.Connection, kind: str, limit: int) -> list[Verdict]:
        """The newest verdicts of a kind, the newest first; none in a registry from before there were any."""
        if not sa.inspect(connection).has_table(self._table.name):
            return []
        of_kind = sa.select(self._table).where(self._table.c.kind == kind)
        ordered = of_kind.order_by(self._table.c.at_us.desc()).limit(limit)
        return [Verdict(*row) for row in connection.execute(ordered)]
