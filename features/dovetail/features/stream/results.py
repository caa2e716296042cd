"""Folded words into feature values: which finisher each aggregate has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.kernels import finish
from dovetail.features.kernels.ordered import from_words
from dovetail.features.kernels.words import Words, decimal_array
from dovetail.features.plan.aggregates import DEVIATIONS
from dovetail.features.plan.definitions import AggregateFunction

__all__ = ["Parts", "finished"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Results of folding, int64 ``[n]`` each: count; Σx in 128 bits, or in ``lo`` the least or greatest; Σx²."""

    count: Words
    lo: Words
    hi: Words
    squares_lo: Words
    squares_hi: Words


def finished(
    function: AggregateFunction, type_: pa.DataType, scale: int, parts: Parts, answerable: npt.NDArray[np.bool_]
) -> pa.Array:
    """The aggregate's column; ``scale`` is the argument's. NULL where not ``answerable``.

    Raises:
        StateError: a sum has more than 38 digits.
    """
    count = parts.count
    if function == "count":
        return from_words(count, answerable, type_)
    present = answerable & (count > 0)
    if function in ("min", "max"):
        return from_words(parts.lo, present, type_)
    lo = parts.lo.view(np.uint64)
    if function == "sum":
        return decimal_array(lo, parts.hi, present, type_)
    if function in DEVIATIONS:
        return finish.deviation(
            lo,
            parts.hi,
            parts.squares_lo.view(np.uint64),
            parts.squares_hi,
            np.where(present, count, 0),
            scale,
            sample=function.endswith("_samp"),
            root=function.startswith("stddev"),
        )
    return finish.avg(lo, parts.hi, np.where(present, count, 0), scale)
