"""Running mean and variance of standardised inputs: part of the model, updated row by row."""

from __future__ import annotations

import math

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Bool, Float32, Float64

__all__ = ["LIMIT", "new_moments", "standardise", "standardise_training", "usable"]

#: Standardised values are clipped to ± this.
LIMIT = 10.0
# Squares of larger numbers overflow a float64 sum.
_LARGEST = 1e150


def new_moments(inputs: int) -> Float64:
    """No rows seen: float64 [inputs, 3] of count, mean and sum of squared deviations from the mean."""
    return np.zeros((inputs, 3), np.float64)


def usable(numbers: Float64) -> Bool:
    """A mask of the numbers that can be standardised: finite and at most 1e150 in size."""
    mask: Bool = np.abs(numbers) <= _LARGEST  # False for NaN
    return mask


def standardise(numbers: Float64, moments: Float64) -> Float32:
    """(x - mean) / deviation within ±10; 0 before two different numbers were seen, and where x is not usable."""
    values = np.empty(len(numbers), np.float32)
    _standardise(numbers, moments, values)
    return values


def standardise_training(numbers: Float64, moments: Float64, weights: Float32) -> Float32:
    """:func:`standardise` each number by the moments of those before it, then count it in, in place.

    Numbers that are not usable, and rows of weight 0, are not counted. Row by row (Welford, "Note on a Method for
    Calculating Corrected Sums of Squares and Products", Technometrics 1962), so that the result does not depend on how
    rows are cut into tables.

    >>> moments = new_moments(1)
    >>> standardise_training(np.array([1.0, 3.0, 5.0]), moments[0], np.ones(3, np.float32)).tolist()
    [0.0, 0.0, 3.0]
    >>> moments.tolist()
    [[3.0, 3.0, 8.0]]
    """
    values = np.empty(len(numbers), np.float32)
    _standardise_training(numbers, moments, weights, values)
    return values


@compiled_as_ieee
def _standard(x: float, moments: Float64) -> np.float32:
    count, mean, squares = moments[0], moments[1], moments[2]
    if not abs(x) <= _LARGEST or count < 2 or squares <= 0:
        return np.float32(0)
    return np.float32(min(max((x - mean) / math.sqrt(squares / count), -LIMIT), LIMIT))


@compiled_as_ieee
def _standardise(numbers: Float64, moments: Float64, values: Float32) -> None:
    for i in range(len(numbers)):
        values[i] = _standard(numbers[i], moments)


@compiled_as_ieee
def _standardise_training(numbers: Float64, moments: Float64, weights: Float32, values: Float32) -> None:
    for i in range(len(numbers)):
        x = numbers[i]
        values[i] = _standard(x, moments)
        if abs(x) <= _LARGEST and weights[i] != 0:
            moments[0] += 1
            before = x - moments[1]
            moments[1] += before / moments[0]
            moments[2] += before * (x - moments[1])
