"""Confidence sequences: intervals for the difference of two rates that hold at all times at once.

An interval of fixed size holds at the one time that was chosen before. Whoever looks again and again, and stops when
it leaves zero, is wrong far more often than it says. A confidence sequence may be looked at after every user.

The bound is the two-sided normal mixture of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 49(2), 2021, eq. (14), with the variance estimated, which
makes it asymptotic in the sense of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory
and asymptotic confidence sequences", Annals of Statistics, 2024. Time is information, 1 / variance of the estimate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.trainer.arithmetic import Float64

__all__ = ["SUMS", "half_width", "rate_of", "sums_of"]

#: What a rate and its variance are made of: users, numerators, denominators, sums of their squares and products.
SUMS = ("users", "over", "under", "over_over", "over_under", "under_under")


def sums_of(over: npt.ArrayLike, under: npt.ArrayLike) -> Float64:
    """The :data:`SUMS`, float64 [6], of users whose rate is ``sum(over) / sum(under)``; one number each per user."""
    y, n = np.asarray(over, np.float64), np.asarray(under, np.float64)
    return np.array([len(y), y.sum(), n.sum(), y @ y, y @ n, n @ n])


def rate_of(sums: Float64) -> tuple[Float64, Float64]:
    """The rate and the variance of it, by ``sums`` of shape [..., 6]; both of shape [...], NaN where there is none.

    The variance is that of a ratio of sums over users (linearised, the delta method), so that rows of one user may
    depend on each other in any way; it needs two users.
    """
    users, over, under, over_over, over_under, under_under = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = over / under
        squares = np.maximum(over_over - 2 * rate * over_under + rate**2 * under_under, 0.0)
        variance = squares / under**2 * users / (users - 1)
    return rate, np.where(users > 1, variance, np.nan)


def half_width(variance: npt.ArrayLike, scale: npt.ArrayLike, alpha: float) -> Float64:
    """The distance from an estimate, at any time, within which the truth is at all times with chance 1 - ``alpha``.

    ``variance`` is that of the estimate at the time. ``scale`` is about the size of differences for which the sequence
    is narrow (the standard deviation of the mixture); the sequence holds for any that is chosen beforehand.
    """
    information = 1 / np.asarray(variance, np.float64)
    mixed = information * np.asarray(scale, np.float64) ** 2
    bound: Float64 = np.sqrt((1 + 1 / mixed) * np.log((1 + mixed) / alpha**2) / information)
    return bound
