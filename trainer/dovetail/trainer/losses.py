"""Losses: each says how a margin becomes a prediction, and which labels there are.

Each loss is taken with its canonical link, so its gradient by the margin is the error, prediction minus label:

- ``logistic``: labels 0 and 1; the prediction is a probability, 1 / (1 + exp(-margin));
- ``squared``: labels are finite numbers; the prediction is the margin; half of the squared error is minimised;
- ``poisson``: labels are finite and not negative, counts above all; the prediction is a mean, exp(margin).

Margins are clamped to ±:data:`~dovetail.trainer.arithmetic.MARGIN_LIMIT` before an exponential: a mean is in
[1.1e-7, 8.9e6].
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import MARGIN_LIMIT, sigmoid

__all__ = ["LOGISTIC", "POISSON", "PRIORS", "SQUARED", "Loss", "is_label", "labels_of", "loss_code", "prediction_of"]

#: The name of a loss, as in ``dovetail.toml``.
Loss = Literal["logistic", "squared", "poisson"]
#: The losses as kernels know them: by their place among the names.
LOGISTIC, SQUARED, POISSON = 0, 1, 2
#: The prediction of a margin of 0, by loss: what a model says that has learnt nothing.
PRIORS: dict[Loss, float] = {"logistic": 0.5, "squared": 0.0, "poisson": 1.0}


def loss_code(loss: str) -> int:
    """The loss as kernels take it.

    :raises ConfigError: there is none of this name.
    """
    names = get_args(Loss)
    if loss not in names:
        raise ConfigError(f"there is no loss {loss!r}; choose from {', '.join(names)}")
    return names.index(loss)


def labels_of(loss: int) -> str:
    """The labels that a loss has, in words."""
    return ("0 or 1", "finite numbers", "finite and not negative")[loss]


@compiled_as_ieee
def prediction_of(margin: float, loss: int) -> np.float32:
    """The prediction of a margin. NaN stays NaN; a squared loss's may be infinite in float32."""
    if loss == LOGISTIC:
        return np.float32(sigmoid(margin))
    if loss == SQUARED or math.isnan(margin):
        return np.float32(margin)
    return np.float32(math.exp(min(max(margin, -MARGIN_LIMIT), MARGIN_LIMIT)))


@compiled_as_ieee
def is_label(label: np.float32, loss: int) -> bool:
    """Whether the loss has such a label."""
    if loss == LOGISTIC:
        return bool(label == 0 or label == 1)
    return bool(math.isfinite(label) and (loss == SQUARED or label >= 0))
