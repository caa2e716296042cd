"""The windows of archived rows, as the worker's judge of data quality sees them: read, judged once, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dovetail.platform.stores.registry.archived.window_sketches import AlertCount, WindowSketchTables
from dovetail.platform.stores.sql.database import Database

__all__ = ["WindowLog"]


class WindowLog:
    """The windows of a registry. Thread-safe."""

    def __init__(self, tables: WindowSketchTables, database: Database) -> None:
        self._tables, self._database = tables, database

    def windows(self) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """By dataset and window, ascending, the rows and the newest time (µs) in it."""
        with self._database.read() as connection:
            return self._tables.windows(connection)

    def sketches(self, dataset: str, window_us: int) -> list[bytes]:
        """The sketches of a window, by partition."""
        with self._database.read() as connection:
            return self._tables.of(connection, dataset, window_us)

    def newest_judged(self) -> Mapping[str, int]:
        """The newest window that has been judged, by dataset."""
        with self._database.read() as connection:
            return self._tables.newest_judged(connection)

    def judge(self, dataset: str, window_us: int, alerts: Sequence[AlertCount], forget_before_us: int) -> bool:
        """Note a window as judged, count its alerts, forget older sketches; False if somebody else has judged it."""
        return self._database.transact(
            lambda connection: self._tables.judge(
                connection, self._database, dataset, window_us, alerts, forget_before_us
            )
        )

    def alerts(self) -> list[AlertCount]:
        """How many alerts there have been of each kind."""
        with self._database.read() as connection:
            return self._tables.alerts(connection)
