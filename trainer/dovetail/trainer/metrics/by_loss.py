"""The metrics of a loss: of a classifier's sums and histograms, or of a model of numbers, which has sums alone."""

from __future__ import annotations

from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.losses import LOGISTIC
from dovetail.trainer.metrics.measures import BINS, Metrics, metrics_of, require_probabilities
from dovetail.trainer.metrics.numbers import number_metrics, require_numbers

__all__ = ["bins_of", "finished", "require"]


def bins_of(loss: int) -> int:
    """How many bins a loss's histograms have."""
    return BINS if loss == LOGISTIC else 0


def finished(sums: Float64, histograms: Float64, loss: int) -> Metrics:
    """The metrics that one row of sums (float64 [9]) and its histograms (float64 [2, bins]) come to."""
    return metrics_of(sums, histograms) if loss == LOGISTIC else number_metrics(sums, loss)


def require(predictions: Float32, labels: Float32, weights: Float32, loss: int) -> None:
    """Refuse what cannot be evaluated.

    :raises ModelError: lengths differ, or a prediction is none of the loss.
    """
    if not len(predictions) == len(labels) == len(weights):
        raise ModelError(
            f"cannot evaluate {len(predictions)} predictions against {len(labels)} labels and {len(weights)} weights"
        )
    if loss == LOGISTIC:
        require_probabilities(predictions)
    else:
        require_numbers(predictions, loss)
