"""Metrics of predictions, and the sums and histograms they are finished from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.metrics.requests import RankingMetrics

__all__ = [
    "BINS",
    "SUMS",
    "Confusion",
    "Metrics",
    "account",
    "exact_auc",
    "judge",
    "metrics_of",
    "require_probabilities",
]

# A prediction p < 1/2 falls into the bin of its float32 exponent and first six mantissa bits, so bins are narrow
# (1.6 % of p) where click rates are small; p >= 1/2 mirrors 1 - p, which float32 holds exactly.
_SHIFT = 23 - 6
#: Bit pattern of 2**-24, below every clamped prediction, in units of a bin.
_LOWEST = (127 - 24) << 6
_HALF = ((127 - 1) << 6) - _LOWEST
#: Bins of the histograms AUC is computed from.
BINS = 2 * _HALF

# Columns of a sums row. Counts are float64 too: exact to 2**53.
SUMS = ("samples", "weight", "positive", "predicted", "loss", "tp", "fp", "fn", "tn")
_SAMPLES, _WEIGHT, _POSITIVE, _PREDICTED, _LOSS, _TP, _FP, _FN, _TN = range(len(SUMS))


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
    #: Of the candidates of each request; None where requests are not known. Not weighted by sample weight.
    ranking: RankingMetrics | None = None
    #: Of models of numbers, which have of the above samples, weight, ``positive`` (the sum of labels) and calibration:
    #: root of the mean squared error.
    rmse: float | None = None
    #: Mean absolute error.
    mae: float | None = None
    #: Of a Poisson loss, mean of 2·(y·log(y/p) - (y - p)).
    poisson_deviance: float | None = None

    def with_ranking(self, ranking: RankingMetrics) -> Metrics:
        """These metrics, with those of rankings."""
        return replace(self, ranking=ranking)

    @property
    def mean_loss(self) -> float | None:
        """The mean of what training minimises, or of twice it: log-loss, squared error or Poisson deviance."""
        if self.log_loss is not None or self.rmse is None:
            return self.log_loss
        return self.rmse**2 if self.poisson_deviance is None else self.poisson_deviance


def metrics_of(sums: Float64, histograms: Float64) -> Metrics:
    """The metrics that one row of sums (float64 [9]) and its histograms (float64 [2, BINS]) come to."""
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


def exact_auc(predictions: Float32, labels: Float32, weights: Float32) -> float | None:
    """Probability that a positive is predicted above a negative, ties counting half, by weight; None without both.

    Exact to float64 rounding; sorts all predictions.
    """
    order = np.argsort(predictions, kind="stable")
    p, c = predictions[order], weights[order].astype(np.float64)
    positive, negative = c * labels[order], c * (1 - labels[order])
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return None
    starts = np.flatnonzero(np.concatenate((p[:1] == p[:1], p[1:] != p[:-1])))
    positives, negatives = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def require_probabilities(predictions: Float32) -> None:
    """Refuse what cannot be evaluated.

    :raises ModelError: a prediction is outside (0, 1) or NaN.
    """
    if not ((predictions > 2.0**-24) & (predictions < 1.0)).all():
        raise ModelError(
            f"cannot evaluate predictions in {predictions.min()}…{predictions.max()}: they must lie inside "
            "(2**-24, 1), as the trainer's and the scorer's do"
        )


@compiled_as_ieee
def judge(p32: np.float32, bits: np.uint32, mirrored: np.uint32, label: np.float32) -> tuple[int, int, float]:
    """Histogram place, confusion cell and loss of one prediction; ``bits`` and ``mirrored`` are p's and 1 - p's."""
    p = np.float64(p32)
    high = p >= 0.5
    place = int((mirrored if high else bits) >> np.uint32(_SHIFT)) - _LOWEST
    if high:
        # 1 - p = 1/2 would be one past the last bin below a half.
        place = 2 * _HALF - 1 - (_HALF - 1 if place >= _HALF else place)
    if label > 0:
        return place, _TP if high else _FN, -math.log(p)
    return place, _FP if high else _TN, -math.log1p(-p)


@compiled_as_ieee
def account(
    p: np.float32,
    label: np.float32,
    weight: np.float32,
    judged: tuple[int, int, float],
    sums: Float64,
    histogram: Float64,
) -> None:
    """Add one judged example to one row of sums and its histograms."""
    place, cell, loss = judged
    c = np.float64(weight)
    positive = label > 0
    sums[_SAMPLES] += 1
    sums[_WEIGHT] += c
    sums[_POSITIVE] += c * positive
    sums[_PREDICTED] += c * np.float64(p)
    sums[_LOSS] += c * loss
    sums[cell] += c
    histogram[int(positive), place] += c
