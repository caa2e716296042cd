"""The marks of archived files, which tell without opening one: first and last time, and filters of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

__all__ = ["FileMarks", "FileMarksTables"]


class FileMarks(NamedTuple):
    """A file of a dataset: the times (µs) of its first and last row, and by column a filter of its keys.

    The archive makes the filters and knows what they mean (``archive/key_filters.py``).
    """

    dataset: str
    path: str
    low_us: int
    high_us: int
    filters: Mapping[str, bytes]


class FileMarksTables:
    """The tables, declared in the registry's metadata. Files that older versions wrote are not in them."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._spans = sa.Table(
            "file_spans",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("path", sa.Text, primary_key=True),
            sa.Column("low_us", sa.BigInteger, nullable=False),
            sa.Column("high_us", sa.BigInteger, nullable=False),
        )
        self._filters = sa.Table(
            "file_filters",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("column", sa.Text, primary_key=True),
            sa.Column("path", sa.Text, primary_key=True),
            sa.Column("bits", sa.LargeBinary, nullable=False),
        )

    def add(self, connection: sa.Connection, marks: Sequence[FileMarks]) -> None:
        """Note the marks of files that are registered in this transaction."""
        if marks:
            spans = [{name: getattr(mark, name) for name in ("dataset", "path", "low_us", "high_us")} for mark in marks]
            connection.execute(sa.insert(self._spans), spans)
        rows = [
            {"dataset": mark.dataset, "column": column, "path": mark.path, "bits": bits}
            for mark in marks
            for column, bits in mark.filters.items()
        ]
        if rows:
            connection.execute(sa.insert(self._filters), rows)

    def spans(self, connection: sa.Connection, dataset: str) -> Mapping[str, tuple[int, int]]:
        """The first and last time of each file of a dataset, by path; none in a registry from before there were any."""
        if not sa.inspect(connection).has_table(self._spans.name):
            return {}
        columns = self._spans.c
        asked = sa.select(columns.path, columns.low_us, columns.high_us).where(columns.dataset == dataset)
        return {path: (low, high) for path, low, high in connection.execute(asked)}

    def filters(self, connection: sa.Connection, dataset: str, column: str) -> list[tuple[str, bytes]]:
        """The filters of a column by path, of the files that have one; none in an old registry, as :meth:`spans`."""
        if not sa.inspect(connection).has_table(self._filters.name):
            return []
        columns = self._filters.c
        asked = sa.select(columns.path, columns.bits).where(columns.dataset == dataset, columns.column == column)
        return [(path, bytes(bits)) for path, bits in connection.execute(asked)]
