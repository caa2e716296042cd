"""The settings of labels that were ever in force, and how each kind of labels is read.

Tables only; the registry puts their changes into its own transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["LabelSettings", "LabelSettingsTables"]


class LabelSettings(NamedTuple):
    """Settings by which samples are made: a text of the caller's, its hash, and which of all they are, from 1."""

    fingerprint: int
    number: int
    text: str


class LabelSettingsTables:
    """The tables, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._settings = sa.Table(
            "label_settings",
            metadata,
            sa.Column("fingerprint", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("number", sa.BigInteger, nullable=False, unique=True),
            sa.Column("text", sa.Text, nullable=False),
        )
        self._logs = sa.Table(
            "label_logs",
            metadata,
            sa.Column("kind", sa.Text, primary_key=True),
            sa.Column("text", sa.Text, nullable=False),
        )

    def settings(self, connection: sa.Connection) -> list[LabelSettings]:
        """All settings, in the order of their numbers."""
        rows = connection.execute(sa.select(self._settings).order_by(self._settings.c.number))
        return [LabelSettings(*row) for row in rows]

    def add(self, connection: sa.Connection, database: Database, fingerprint: int, text: str) -> bool:
        """Add settings under the next number; whether they are there now.

        They are not where others have taken that number meanwhile: the caller does it again.
        """
        columns = self._settings.c
        there = sa.select(columns.number).where(columns.fingerprint == fingerprint)
        if connection.execute(there).first() is None:
            last = connection.execute(sa.select(sa.func.max(columns.number))).scalar() or 0
            given = {"fingerprint": fingerprint, "number": last + 1, "text": text}
            connection.execute(database.insert(self._settings).on_conflict_do_nothing(), given)
        return connection.execute(there).first() is not None

    def logs(self, connection: sa.Connection) -> dict[str, str]:
        """How each kind is read, by kind."""
        return {kind: text for kind, text in connection.execute(sa.select(self._logs))}  # noqa: C416

    def put_logs(
        self, connection: sa.Connection, database: Database, texts: Mapping[str, str], known: Mapping[str, str]
    ) -> list[str]:
        """Note how kinds are read where it still is as ``known``; the kinds of which others say otherwise now."""
        lost, columns = [], self._logs.c
        for kind, text in sorted(texts.items()):
            connection.execute(database.insert(self._logs).on_conflict_do_nothing(), {"kind": kind, "text": text})
            still = (columns.kind == kind) & (columns.text == known.get(kind, text))
            connection.execute(sa.update(self._logs).where(still).values(text=text))
            if connection.execute(sa.select(columns.text).where(columns.kind == kind)).scalar_one() != text:
                lost.append(kind)
        return lost
