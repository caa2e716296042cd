"""How numba kernels are compiled, and the arithmetic that training and scoring share.

Every kernel is strict IEEE arithmetic in a fixed order: no ``fastmath``, no re-association, no fused multiply-add. That
is what makes a resumed run equal an uninterrupted one bit for bit, and a score equal the prediction training made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from dovetail.trainer.dtypes import Bool, Float32, Float64, Int32, Int64, UInt8, UInt32, UInt64

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
    "kernel",
    "sigmoid",
]

#: Margins are clamped to this before the sigmoid: predictions stay in [1.1e-7, 1 - 1.1e-7], which float32 can tell from
#: 0 and 1, so no exponential overflows and the log-loss of one example never exceeds 16.
MARGIN_LIMIT = 16.0

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile ``function`` with numba: GIL released, cached on disk, division by zero as IEEE has it.

    Numba's cache looks at the file a kernel is in, not at kernels it calls in other files. Keep callees in the same
    file unless they are as settled as :func:`sigmoid`.
    """
    return cast("_F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@kernel
def sigmoid(margin: float) -> float:
    """1 / (1 + exp(-margin)), with ``margin`` clamped to ±MARGIN_LIMIT; NaN stays NaN."""
    clamped = min(max(margin, -MARGIN_LIMIT), MARGIN_LIMIT)
    if math.isnan(margin):
        clamped = margin
    return 1.0 / (1.0 + math.exp(-clamped))
