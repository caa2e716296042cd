"""Progress as a worker knows it: its own as it was committed, that of others as it was a moment ago.

Watermarks and announcements look at the progress of every partition far more often than it moves, and on a server each
look is a round trip. What is behind is only late: progress never goes back while a worker has its partitions, and where
it may have (an assignment), the view is dropped and read again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from dovetail.platform.rows.positions import Progress

__all__ = ["ProgressView"]


class ProgressView:
    """The progress of the scopes of one store. Thread-safe."""

    def __init__(
        self,
        read: Callable[[str], Mapping[int, Progress]],
        *,
        max_age_s: float = 0.2,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` gives the progress of a scope as it is committed. It is asked again after ``max_age_s``.

        ``seconds`` is a clock that is not set back.
        """
        self._read = read
        self._max_age_s = max_age_s
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[str, dict[int, Progress]] = {}
        self._read_at: dict[str, float] = {}
        # By scope, for each reading that goes on: what has been committed here since it began.
        self._readings: dict[str, list[dict[int, Progress]]] = {}

    def progress(self, scope: str) -> Mapping[int, Progress]:
        """Progress of ``scope`` by partition: no older than ``max_age_s``, and with all that :meth:`moved` was told of.

        Raises what reading raises.
        """
        now = self._seconds()
        meanwhile: dict[int, Progress] = {}
        with self._lock:
            if scope in self._known and now - self._read_at[scope] < self._max_age_s:
                return dict(self._known[scope])
            readings = self._readings.setdefault(scope, [])
            readings.append(meanwhile)
        found: dict[int, Progress] | None = None
        try:
            found = dict(self._read(scope))
        finally:
            with self._lock:
                readings[:] = [one for one in readings if one is not meanwhile]
                if found is not None:
                    found |= meanwhile
                    if readings is self._readings.get(scope):  # else it was dropped since
                        self._known[scope], self._read_at[scope] = dict(found), now
        return found

    def moved(self, scope: str, partition: int, progress: Progress) -> None:
        """``progress`` of a partition has been committed here."""
        with self._lock:
            if scope in self._known:
                self._known[scope][partition] = progress
            for meanwhile in self._readings.get(scope, ()):
                meanwhile[partition] = progress

    def drop(self, scope: str) -> None:
        """Read ``scope`` again when it is next asked for: its partitions may have moved elsewhere."""
        with self._lock:
            self._known.pop(scope, None)
            self._readings.pop(scope, None)
