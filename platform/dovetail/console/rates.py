"""Rates of stages: rows read between two looks, by the clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

__all__ = ["Rates"]

_LOOKS, _APART_S, _AT_MOST_S = 32, 1.0, 60.0

K = TypeVar("K")


class Rates(Generic[K]):
    """Remembers the totals of the last looks; threads may share it."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """``seconds`` is a clock that never goes back."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._looks: deque[tuple[float, Mapping[K, int]]] = deque(maxlen=_LOOKS)

    def of(self, totals: Mapping[K, int]) -> dict[K, float]:
        """Rows a second by stage, since the oldest look of the last minute; empty for the first look."""
        with self._lock:
            now = self._seconds()
            while self._looks and now - self._looks[0][0] > _AT_MOST_S:
                self._looks.popleft()
            found: dict[K, float] = {}
            if self._looks and now - self._looks[0][0] >= _APART_S:
                since, before = self._looks[0]
                found = {name: max(0, rows - before.get(name, 0)) / (now - since) for name, rows in totals.items()}
            if not self._looks or now - self._looks[-1][0] >= _APART_S:
                self._looks.append((now, dict(totals)))
            return found
