"""Progressive evaluation: metrics of predictions made before the model trained on their examples.

Each example is seen once, so these are honest held-out metrics without a held-out set (Blum, Kalai and Langford,
"Beating the hold-out", COLT 1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.losses import LOGISTIC, Loss, loss_code
from dovetail.trainer.metrics.by_loss import bins_of, finished, require
from dovetail.trainer.metrics.measures import BINS, SUMS, Confusion, Metrics, account, judge
from dovetail.trainer.metrics.numbers import account_number

__all__ = ["BINS", "Confusion", "Evaluation", "Metrics"]


class Evaluation:
    """Accumulates metrics in total and over the last ``windows`` windows of ``window`` examples each.

    Sums run example by example in order, so the metrics do not depend, to the last bit, on how examples are cut into
    calls, nor on a stop and :meth:`restore` in between.

    :raises ConfigError: ``window`` or ``windows`` below 1.
    """

    def __init__(self, window: int = 100_000, windows: int = 10, loss: Loss = "logistic") -> None:
        if window < 1 or windows < 1:
            raise ConfigError(f"evaluation needs window >= 1 and windows >= 1, got window={window}, windows={windows}")
        self.window = window
        self.windows = windows
        self.loss: Loss = loss
        self._code = loss_code(loss)
        # Row 0 is the total, row 1 + (w mod windows) is window w.
        self._sums = np.zeros((1 + windows, len(SUMS)), np.float64)
        self._histograms = np.zeros((1 + windows, 2, bins_of(self._code)), np.float64)

    @property
    def samples(self) -> int:
        """Examples seen."""
        return int(self._sums[0, 0])

    def add(self, predictions: Float32, labels: Float32, weights: Float32) -> None:
        """Account for examples, predictions and labels as the loss has them, weights >= 0; float32 [n] each.

        :raises ModelError: lengths differ, or a prediction is none: of a logistic loss, outside (0, 1).
        """
        require(predictions, labels, weights, self._code)
        _accumulate(predictions, labels, weights, self._sums, self._histograms, self.samples, self.window, self._code)

    def total(self) -> Metrics:
        """Metrics of all examples."""
        return finished(self._sums[0], self._histograms[0], self._code)

    def recent(self) -> list[Metrics]:
        """Metrics of the kept windows, oldest first; the last one may still be filling up."""
        begun = -(-self.samples // self.window)
        kept = [1 + window % self.windows for window in range(max(0, begun - self.windows), begun)]
        return [finished(self._sums[row], self._histograms[row], self._code) for row in kept]

    def last(self) -> Metrics:
        """Metrics of the window that is filling up and the one before it: the last ``window`` … 2·``window`` examples.

        With one window kept, of that one alone.
        """
        rows = [1 + window % self.windows for window in self.last_windows()]
        return finished(self._sums[rows].sum(axis=0), self._histograms[rows].sum(axis=0), self._code)

    def last_windows(self) -> list[int]:
        """The numbers of the windows that :meth:`last` is of, counted from 0."""
        begun = -(-self.samples // self.window)
        return list(range(max(0, begun - min(2, self.windows)), begun))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as copied arrays."""
        return {
            "shape": np.array([self.window, self.windows, *([self._code] if self._code else [])], np.int64),
            "sums": self._sums.copy(),
            "histograms": self._histograms.copy(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Evaluation:
        """The evaluation whose :meth:`state` was ``state``."""
        window, windows, *code = state["shape"].tolist()
        restored = cls(window, windows, get_args(Loss)[code[0] if code else LOGISTIC])
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
    loss: int,
) -> None:
    bits = predictions.view(np.uint32)
    mirrored = (np.float32(1) - predictions).view(np.uint32)
    windows = len(sums) - 1
    for i in range(len(predictions)):
        recent = 1 + (samples + i) // window % windows
        if (samples + i) % window == 0:
            sums[recent] = 0.0
            histograms[recent] = 0.0
        if loss != LOGISTIC:
            for row in (0, recent):
                account_number(predictions[i], labels[i], weights[i], loss, sums[row])
            continue
        judged = judge(predictions[i], bits[i], mirrored[i], labels[i])
        for row in (0, recent):
            account(predictions[i], labels[i], weights[i], judged, sums[row], histograms[row])
