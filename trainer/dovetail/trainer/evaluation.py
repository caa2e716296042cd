"""Progressive evaluation: metrics of predictions made before the model trained on their examples.

Each example is seen once, so these are honest held-out metrics without a held-out set (Blum, Kalai and Langford,
"Beating the hold-out", COLT 1999).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.kernels import Float32, Float64, kernel

__all__ = ["BINS", "Confusion", "Evaluation", "Metrics"]

# A prediction p < 1/2 falls into the bin of its float32 exponent and first six mantissa bits, so bins are narrow
# (1.6 % of p) where click rates are small; p >= 1/2 mirrors 1 - p, which float32 holds exactly.
_STEPS = 64
_SHIFT = 23 - 6
#: Bit pattern of 2**-24, below every clamped prediction, in units of a bin.
_LOWEST = (127 - 24) << 6
_HALF = ((127 - 1) << 6) - _LOWEST
#: Bins of the histograms AUC is computed from.
BINS = 2 * _HALF

# Columns of a sums row. Counts are float64 too: exact to 2**53.
_SUMS = ("samples", "weight", "positive", "predicted", "loss", "tp", "fp", "fn", "tn")
_SAMPLES, _WEIGHT, _POSITIVE, _PREDICTED, _LOSS, _TP, _FP, _FN, _TN = range(len(_SUMS))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Weighted counts at the threshold p >= 0.5."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a run of examples, all weighted by sample weight. A metric that has no value is None.

    ``log_loss``, ``accuracy`` are None without weight; ``auc``, ``auc_error`` and ``normalised_entropy`` unless both
    classes are there; ``calibration`` without a positive.
    """

    #: Examples, unweighted.
    samples: int
    weight: float
    #: Weight of the positives.
    positive: float
    #: Mean of -log(p of the label), natural logarithm.
    log_loss: float | None
    #: Probability that a positive is predicted above a negative, ties counting half; from histograms.
    auc: float | None
    #: The exact AUC lies within ``auc`` ± this.
    auc_error: float | None
    #: Log-loss over the entropy of the base rate (He et al., "Practical Lessons from Predicting Clicks on Ads at
    #: Facebook", ADKDD 2014); below 1 is better than always predicting the base rate.
    normalised_entropy: float | None
    #: Σp / Σy.
    calibration: float | None
    #: At the threshold p >= 0.5.
    accuracy: float | None
    confusion: Confusion


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
        self._sums = np.zeros((1 + windows, len(_SUMS)), np.float64)
        self._histograms = np.zeros((1 + windows, 2, BINS), np.float64)

    @property
    def samples(self) -> int:
        """Examples seen."""
        return int(self._sums[0, _SAMPLES])

    def add(self, predictions: Float32, labels: Float32, weights: Float32) -> None:
        """Account for examples: predictions strictly between 0 and 1, labels 0 or 1, weights >= 0; float32 [n] each.

        :raises ModelError: lengths differ, or a prediction is outside (0, 1) or NaN.
        """
        if not len(predictions) == len(labels) == len(weights):
            raise ModelError(
                f"cannot evaluate {len(predictions)} predictions against {len(labels)} labels and "
                f"{len(weights)} weights"
            )
        if not ((predictions > 2.0**-24) & (predictions < 1.0)).all():
            raise ModelError(
                f"cannot evaluate predictions in {predictions.min()}…{predictions.max()}: they must lie inside "
                "(2**-24, 1), as the trainer's and the scorer's do"
            )
        _accumulate(predictions, labels, weights, self._sums, self._histograms, self.samples, self.window)

    def total(self) -> Metrics:
        """Metrics of all examples."""
        return _metrics(self._sums[0], self._histograms[0])

    def recent(self) -> list[Metrics]:
        """Metrics of the kept windows, oldest first; the last one may still be filling up."""
        begun = -(-self.samples // self.window)
        kept = [1 + window % self.windows for window in range(max(0, begun - self.windows), begun)]
        return [_metrics(self._sums[row], self._histograms[row]) for row in kept]

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


def _metrics(sums: Float64, histograms: Float64) -> Metrics:
    samples, weight, positive, predicted, loss, tp, fp, fn, tn = sums.tolist()
    auc, auc_error = _auc(histograms)
    log_loss = loss / weight if weight > 0 else None
    normalised = None
    if log_loss is not None and 0 < positive < weight:
        rate = positive / weight
        normalised = log_loss / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    return Metrics(
        samples=int(samples),
        weight=weight,
        positive=positive,
        log_loss=log_loss,
        auc=auc,
        auc_error=auc_error,
        normalised_entropy=normalised,
        calibration=predicted / positive if positive > 0 else None,
        accuracy=(tp + tn) / weight if weight > 0 else None,
        confusion=Confusion(tp, fp, fn, tn),
    )


def _auc(histograms: Float64) -> tuple[float | None, float | None]:
    """AUC with ties inside a bin counted half, and the most that can be wrong: half of all pairs that share a bin."""
    negatives, positives = histograms
    pairs = float(negatives.sum() * positives.sum())
    if pairs == 0:
        return None, None
    below = np.cumsum(negatives) - negatives
    shared = float((positives * negatives).sum()) / 2
    return (float((positives * below).sum()) + shared) / pairs, shared / pairs


@kernel
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
        p, weight = np.float64(predictions[i]), np.float64(weights[i])
        positive, high = labels[i] > 0, p >= 0.5
        place = int((mirrored[i] if high else bits[i]) >> np.uint32(_SHIFT)) - _LOWEST
        if high:
            # 1 - p = 1/2 would be one past the last bin below a half.
            place = 2 * _HALF - 1 - (_HALF - 1 if place >= _HALF else place)
        if positive:
            loss = -math.log(p)
            cell = _TP if high else _FN
        else:
            loss = -math.log1p(-p)
            cell = _FP if high else _TN
        for row in (0, recent):
            sums[row, _SAMPLES] += 1
            sums[row, _WEIGHT] += weight
            sums[row, _POSITIVE] += weight * positive
            sums[row, _PREDICTED] += weight * p
            sums[row, _LOSS] += weight * loss
            sums[row, cell] += weight
            histograms[row, int(positive), place] += weight
