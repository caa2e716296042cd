"""Progressive evaluation: metrics of predictions made before the model trained on their examples.

Each example is seen once, so these are honest held-out metrics without a held-out set (Blum, Kalai and Langford,
"Beating the hold-out", COLT 1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.metrics.measures import (
    BINS,
    SUMS,
    Confusion,
    Metrics,
    account,
    judge,
    metrics_of,
    require_predictions,
)

__all__ = ["BINS", "Confusion", "Evaluation", "Metrics"]


class Evaluation:
    """Accumulates metrics in total and over the last ``windows`` windows of ``window`` examples each.

    Sums run example by example in order, so the metrics do not depend, to the last bit, on how examples are cut into
    calls, nor on a stop and :meth:`restore` in between.

    :raises ConfigError: ``window`` or ``windows`` below 1.
    """

    def __init__(self, window: int = 100_000, windows: int = 10) -> None:
        if window < 1 or windows < 1:
            raise ConfigError(f"evaluation needs window >= 1 and windows >= 1, got window={window}, windows={windows}")
        self.window = window
        self.windows = windows
        # Row 0 is the total, row 1 + (w mod windows) is window w.
        self._sums = np.zeros((1 + windows, len(SUMS)), np.float64)
        self._histograms = np.zeros((1 + windows, 2, BINS), np.float64)

    @property
    def samples(self) -> int:
        """Examples seen."""
        return int(self._sums[0, 0])

    def add(self, predictions: Float32, labels: Float32, weights: Float32) -> None:
        """Account for examples: predictions strictly between 0 and 1, labels 0 or 1, weights >= 0; float32 [n] each.

        :raises ModelError: lengths differ, or a prediction is outside (0, 1) or NaN.
        """
        require_predictions(predictions, labels, weights)
        _accumulate(predictions, labels, weights, self._sums, self._histograms, self.samples, self.window)

    def total(self) -> Metrics:
        """Metrics of all examples."""
        return metrics_of(self._sums[0], self._histograms[0])

    def recent(self) -> list[Metrics]:
        """Metrics of the kept windows, oldest first; the last one may still be filling up."""
        begun = -(-self.samples // self.window)
        kept = [1 + window % self.windows for window in range(max(0, begun - self.windows), begun)]
        return [metrics_of(self._sums[row], self._histograms[row]) for row in kept]

    def last(self) -> Metrics:
        """Metrics of the window that is filling up and the one before it: the last ``window`` … 2·``window`` examples.

        With one window kept, of that one alone.
        """
        rows = [1 + window % self.windows for window in self.last_windows()]
        return metrics_of(self._sums[rows].sum(axis=0), self._histograms[rows].sum(axis=0))

    def last_windows(self) -> list[int]:
        """The numbers of the windows that :meth:`last` is of, counted from 0."""
        begun = -(-self.samples // self.window)
        return list(range(max(0, begun - min(2, self.windows)), begun))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as copied arrays."""
        return {
            "shape": np.array([self.window, self.windows], np.int64),
            "sums": self._sums.copy(),
            "histograms": self._histograms.copy(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Evaluation:
        """The evaluation whose :meth:`state` was ``state``."""
        window, windows = state["shape"].tolist()
        restored = cls(window, windows)
        restored._sums[...] = state["sums"]
        restored._histograms[...] = state["histograms"]
        return restored


@compiled_as_ieee
def _accumulate(
    predictions: Float32,
    labels: Float32,
    weights: Float32,
    sums: Float64,
    histograms: Float64,
    samples: int,
    window: int,
) -> None:
    bits = predictions.view(np.uint32)
    mirrored = (np.float32(1) - predictions).view(np.uint32)
    windows = len(sums) - 1
    for i in range(len(predictions)):
        recent = 1 + (samples + i) // window % windows
        if (samples + i) % window == 0:
            sums[recent] = 0.0
            histograms[recent] = 0.0
        judged = judge(predictions[i], bits[i], mirrored[i], labels[i])
        for row in (0, recent):
            account(predictions[i], labels[i], weights[i], judged, sums[row], histograms[row])
