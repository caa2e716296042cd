"""Sketches of archived rows by window of event time, which windows have been judged, and how many alerts there were.

A sketch is changed in the transaction that moves the archive's position, so each archived row is in it once, whatever
was killed when: what is not committed yet is archived again, and sketched again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["AlertCount", "WindowChange", "WindowSketch", "WindowSketchTables"]


class WindowSketch(NamedTuple):
    """Rows of a dataset's partition in the window that begins at ``window_us``; the caller knows what a sketch is."""

    dataset: str
    partition: int
    window_us: int
    rows: int
    newest_us: int
    sketch: bytes


class WindowChange(NamedTuple):
    """Rows that are archived now, one sketch by window, and how two sketches of a window become one."""

    sketches: Sequence[WindowSketch]
    merge: Callable[[bytes, bytes], bytes]


class AlertCount(NamedTuple):
    """The alerts of a measure of a column that there have ever been."""

    dataset: str
    column: str
    measure: str
    severity: str
    alerts: int


class WindowSketchTables:
    """The tables, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._sketches = sa.Table(
            "window_sketches",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("window_us", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("newest_us", sa.BigInteger, nullable=False),
            sa.Column("sketch", sa.LargeBinary, nullable=False),
        )
        self._judged = sa.Table(
            "judged_windows",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("window_us", sa.BigInteger, primary_key=True, autoincrement=False),
        )
        self._alerts = sa.Table(
            "quality_alerts",
            metadata,
            sa.Column("dataset", sa.Text, primary_key=True),
            sa.Column("column", sa.Text, primary_key=True),
            sa.Column("measure", sa.Text, primary_key=True),
            sa.Column("severity", sa.Text, primary_key=True),
            sa.Column("alerts", sa.BigInteger, nullable=False),
        )

    def change(self, connection: sa.Connection, database: Database, change: WindowChange) -> None:
        """Add rows to their windows. Only the archive of a partition writes to its sketches."""
        columns = self._sketches.c
        for each in change.sketches:
            mine = (columns.dataset == each.dataset) & (columns.window_us == each.window_us)
            asked = sa.select(columns.rows, columns.newest_us, columns.sketch)
            known = connection.execute(asked.where(mine, columns.partition == each.partition)).one_or_none()
            if known is not None:
                both = change.merge(bytes(known.sketch), each.sketch)
                newest = max(known.newest_us, each.newest_us)
                each = each._replace(rows=known.rows + each.rows, newest_us=newest, sketch=both)
            insert = database.insert(self._sketches)
            upsert = insert.on_conflict_do_update(
                index_elements=["dataset", "window_us", "partition"],
                set_={name: insert.excluded[name] for name in ("rows", "newest_us", "sketch")},
            )
            connection.execute(upsert, each._asdict())

    def windows(self, connection: sa.Connection) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """By dataset and window, the rows and the newest time (µs) in it."""
        columns = self._sketches.c
        totals = sa.func.sum(columns.rows), sa.func.max(columns.newest_us)
        asked = sa.select(columns.dataset, columns.window_us, *totals).group_by(columns.dataset, columns.window_us)
        found: dict[str, dict[int, tuple[int, int]]] = {}
        for dataset, window_us, rows, newest_us in connection.execute(asked.order_by(columns.window_us)):
            found.setdefault(dataset, {})[window_us] = (int(rows), int(newest_us))
        return found

    def of(self, connection: sa.Connection, dataset: str, window_us: int) -> list[bytes]:
        """The sketches of a window, by partition."""
        columns = self._sketches.c
        mine = sa.select(columns.sketch).where(columns.dataset == dataset, columns.window_us == window_us)
        return [bytes(sketch) for (sketch,) in connection.execute(mine.order_by(columns.partition))]

    def newest_judged(self, connection: sa.Connection) -> Mapping[str, int]:
        """The newest window that has been judged, by dataset."""
        columns = self._judged.c
        asked = sa.select(columns.dataset, sa.func.max(columns.window_us)).group_by(columns.dataset)
        return {dataset: int(window) for dataset, window in connection.execute(asked)}

    def judge(
        self,
        connection: sa.Connection,
        database: Database,
        dataset: str,
        window_us: int,
        alerts: Sequence[AlertCount],
        forget_before_us: int,
    ) -> bool:
        """Note a window as judged and count its alerts, and forget sketches of older windows of its dataset.

        False, and nothing is changed, if somebody else has judged it.
        """
        mark = database.insert(self._judged).on_conflict_do_nothing().returning(self._judged.c.window_us)
        if connection.execute(mark, {"dataset": dataset, "window_us": window_us}).first() is None:
            return False
        insert = database.insert(self._alerts)
        upsert = insert.on_conflict_do_update(
            index_elements=["dataset", "column", "measure", "severity"],
            set_={"alerts": self._alerts.c.alerts + insert.excluded.alerts},
        )
        for alert in alerts:
            connection.execute(upsert, alert._asdict())
        for table in (self._sketches, self._judged):
            old = (table.c.dataset == dataset) & (table.c.window_us < forget_before_us)
            connection.execute(sa.delete(table).where(old))
        return True

    def alerts(self, connection: sa.Connection) -> list[AlertCount]:
        """How many alerts there were of each kind."""
        ordered = sa.select(self._alerts).order_by(*list(self._alerts.c)[:4])
        return [AlertCount(*row) for row in connection.execute(ordered)]
