"""What makes a label: the policy that decides from the label rows of a snapshot row.

``delayed``: wait until the window has passed, then the row is a sample if it was exposed within the window, positive if
it also had the positive event within the window. One sample per exposed row, no corrections, no bias; the price is that
training lags by the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Decision", "Delayed"]

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Decision:
    """``sampled`` bool [n]: rows that become samples. ``positive`` bool [n]: their label. ``weight`` float32 [n]."""

    sampled: npt.NDArray[np.bool_]
    positive: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Delayed:
    """The ``delayed`` policy over label kinds ``exposure`` and ``positive``, with one window in microseconds."""

    exposure: str
    positive: str
    window_us: int

    def end_us(self, request_time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The last effective time that counts for a request, int64 µs."""
        return request_time_us + self.window_us

    def decide(
        self, request_time_us: npt.NDArray[np.int64], effective_us: dict[str, npt.NDArray[np.int64]]
    ) -> Decision:
        """Decide for rows whose window has passed. ``effective_us`` by kind, int64 max where there is no such label."""
        end = self.end_us(request_time_us)
        none = np.full(len(end), _NEVER, dtype=np.int64)
        sampled = effective_us.get(self.exposure, none) <= end
        positive = sampled & (effective_us.get(self.positive, none) <= end)
        return Decision(sampled, positive, np.ones(len(end), dtype=np.float32))
