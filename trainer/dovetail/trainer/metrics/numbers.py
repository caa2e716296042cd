"""Metrics of models of numbers: what examples of a squared or a Poisson loss add to sums, and what these come to."""

from __future__ import annotations

import math

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.losses import POISSON
from dovetail.trainer.metrics.measures import SUMS, Confusion, Metrics

__all__ = ["account_number", "number_metrics", "require_numbers"]

# Columns of a sums row, as many as of a classifier's.
_SAMPLES, _WEIGHT, _LABEL, _PREDICTED, _SQUARED, _ABSOLUTE, _DEVIANCE = range(7)
assert len(SUMS) > _DEVIANCE  # noqa: S101 - they share their arrays
_NOTHING = Confusion(0.0, 0.0, 0.0, 0.0)


def number_metrics(sums: Float64, loss: int) -> Metrics:
    """The metrics that one row of sums (float64 [9]) comes to."""
    samples, weight, label, predicted, squared, absolute, deviance = sums[:7].tolist()
    return Metrics(
        samples=int(samples),
        weight=weight,
        positive=label,
        log_loss=None,
        auc=None,
        auc_error=None,
        normalised_entropy=None,
        calibration=predicted / label if label != 0 else None,
        accuracy=None,
        confusion=_NOTHING,
        rmse=math.sqrt(squared / weight) if weight > 0 else None,
        mae=absolute / weight if weight > 0 else None,
        poisson_deviance=deviance / weight if weight > 0 and loss == POISSON else None,
    )


def require_numbers(predictions: Float32, loss: int) -> None:
    """Refuse what cannot be evaluated.

    :raises ModelError: a prediction is not finite or, of a Poisson loss, not above 0.
    """
    good = np.isfinite(predictions) & ((predictions > 0) | (loss != POISSON))
    if not good.all():
        raise ModelError(
            f"cannot evaluate a prediction of {predictions[~good][0]}: predictions must be finite"
            f"{' and, of a Poisson loss, above 0' if loss == POISSON else ''}"
        )


@compiled_as_ieee
def account_number(p32: np.float32, label: np.float32, weight: np.float32, loss: int, sums: Float64) -> None:
    """Add one example to one row of sums."""
    p, y, c = np.float64(p32), np.float64(label), np.float64(weight)
    sums[_SAMPLES] += 1
    sums[_WEIGHT] += c
    sums[_LABEL] += c * y
    sums[_PREDICTED] += c * p
    sums[_SQUARED] += c * (p - y) * (p - y)
    sums[_ABSOLUTE] += c * abs(p - y)
    if loss == POISSON:
        of_label = y * math.log(y / p) if y > 0 else 0.0
        sums[_DEVIANCE] += 2.0 * c * (of_label - (y - p))
