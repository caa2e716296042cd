"""The arithmetic that training and scoring share, and arrays by the dtype of their elements.

Every kernel is strict IEEE arithmetic in a fixed order: no ``fastmath``, no re-association, no fused multiply-add. That
is what makes a resumed run equal an uninterrupted one bit for bit, and a score equal the prediction training made.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dovetail.platform.compiling import compiled_as_ieee

__all__ = [
    "MARGIN_LIMIT",
    "Bool",
    "Float32",
    "Float64",
    "Int32",
    "Int64",
    "UInt8",
    "UInt32",
    "UInt64",
    "sigmoid",
]

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]

#: Margins are clamped to this before the sigmoid: predictions stay in [1.1e-7, 1 - 1.1e-7], which float32 can tell from
#: 0 and 1, so no exponential overflows and the log-loss of one example never exceeds 16.
MARGIN_LIMIT = 16.0


@compiled_as_ieee
def sigmoid(margin: float) -> float:
    """1 / (1 + exp(-margin)), with ``margin`` clamped to ±MARGIN_LIMIT; NaN stays NaN."""
    clamped = min(max(margin, -MARGIN_LIMIT), MARGIN_LIMIT)
    if math.isnan(margin):
        clamped = margin
    return 1.0 / (1.0 + math.exp(-clamped))
