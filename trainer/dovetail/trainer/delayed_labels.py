"""Weights and corrections for labels that come late: training before the label window has passed.

Emitting a sample as a negative at its exposure, and again as a positive when the click comes (*fast emit*), trains on
every positive twice: once with the wrong label. Both corrections are Ktena et al., "Addressing Delayed Feedback for
Continuous Training with Neural Networks in CTR prediction", RecSys 2019. What was published is that fast emit with FNW
keeps the AUC of waiting, not that it beats it, and that FNC's log-loss is worse; see docs/training.md for numbers here.
"""

from __future__ import annotations

import numpy as np

from dovetail.trainer.arithmetic import Float32

__all__ = ["fnc_calibrated", "fnw_weights"]


def fnw_weights(predictions: Float32, labels: Float32) -> Float32:
    """Fake-negative weights: 1 + p for a positive, (1 - p)·(1 + p) for a negative; float32 [n].

    p is the model's prediction for the example, taken as a number: no gradient flows through the weight. With these
    weights the expected gradient over fast-emitted samples is that over the true labels.

    >>> fnw_weights(np.array([0.5, 0.5], np.float32), np.array([1, 0], np.float32)).tolist()
    [1.5, 0.75]
    """
    p = predictions.astype(np.float32)
    weights: Float32 = np.where(labels > 0, 1 + p, (1 - p) * (1 + p)).astype(np.float32)
    return weights


def fnc_calibrated(biased: Float32) -> Float32:
    """Fake-negative calibration of what a model says that was trained on fast-emitted samples: p = b / (1 - b).

    Such a model learns b = p / (1 + p), at most 1/2; beyond, p is clamped to 1. float32 [n].

    >>> fnc_calibrated(np.array([0.2, 0.5, 0.7], np.float32)).tolist()
    [0.25, 1.0, 1.0]
    """
    b = np.minimum(biased, np.float32(0.5))
    calibrated: Float32 = (b / (1 - b)).astype(np.float32)
    return calibrated
