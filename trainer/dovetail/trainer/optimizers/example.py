"""The part of a progressive kernel that every optimizer shares: look at one example, predict it, give its error."""

from __future__ import annotations

import math

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.losses import is_label, prediction_of
from dovetail.trainer.samples.memory import prefetch_row

__all__ = ["predict_example", "prefetch_example"]


@compiled_as_ieee
def predict_example(
    records: Float32,
    slots: UInt32,
    values: Float32,
    label: np.float32,
    weight: np.float32,
    loss: int,
) -> tuple[np.float32, np.float32]:
    """Prediction of one example and its error, (p - y)·weight; both NaN when the example is refused.

    Of a logistic loss an error is never zero unless the weight is: predictions stay inside (0, 1).
    """
    refused = np.float32(np.nan), np.float32(np.nan)
    # The number of records is a power of two, so one OR tells whether any slot is outside.
    seen = np.uint32(0)
    for j in range(len(slots)):
        seen |= slots[j]
    if not (seen < len(records) and is_label(label, loss) and weight >= 0 and weight < np.inf):
        return refused
    margin = 0.0
    for j in range(len(slots)):
        margin += np.float64(records[slots[j], 0]) * np.float64(values[j])
    p = prediction_of(margin, loss)
    if not (math.isfinite(margin) and math.isfinite(p)):
        return refused
    return p, np.float32((p - label) * weight)


@compiled_as_ieee
def prefetch_example(records: Float32, slots: UInt32) -> None:
    """Ask for the records of an example that is about to be predicted."""
    for j in range(len(slots)):
        prefetch_row(records, int(slots[j]))
