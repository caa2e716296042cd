"""Integers of more than 128 bits, for the one place that needs them: ``n·Σx² - (Σx)²``, exactly.

A number is an array of limbs of 30 bits, least first: the product of two limbs and what is carried stay inside int64.
"""

from __future__ import annotations

import math

import numpy as np

from dovetail.features.kernels.words import Words
from dovetail.platform.compiling import compiled

__all__ = ["spread"]

_BITS = 30
_MASK = (1 << _BITS) - 1
_LIMBS = 12


@compiled
def spread(lo: int, hi: int, squares_lo: int, squares_hi: int, count: int) -> float:
    """``count·Σx² - (Σx)²`` as one exact integer, rounded once to the nearest double, ties to even.

    Args:
        lo, hi: Σx, 128-bit two's complement.
        squares_lo, squares_hi: Σx², not negative.
        count: below 2**62.
    """
    if hi < 0:
        lo = -lo
        hi = ~hi + (1 if lo == 0 else 0)
    total, squares, times = _limbs(lo, hi), _limbs(squares_lo, squares_hi), _limbs(count, 0)
    minuend, subtrahend = _product(times, squares), _product(total, total)
    borrow = 0
    for i in range(_LIMBS):
        difference = minuend[i] - subtrahend[i] - borrow
        borrow = 1 if difference < 0 else 0
        minuend[i] = difference & _MASK
    return _rounded(minuend)


@compiled
def _limbs(lo: int, hi: int) -> Words:
    limbs = np.zeros(_LIMBS, np.int64)
    for i in range(5):
        limbs[i] = lo & _MASK
        lo = ((lo >> _BITS) & ((1 << 34) - 1)) | (hi << 34)
        hi = hi >> _BITS
    return limbs


@compiled
def _product(a: Words, b: Words) -> Words:
    out = np.zeros(_LIMBS, np.int64)
    for i in range(5):
        carry = 0
        for j in range(_LIMBS - i):
            carry += out[i + j] + (a[i] * b[j] if j < 5 else 0)
            out[i + j] = carry & _MASK
            carry >>= _BITS
    return out


@compiled
def _rounded(limbs: Words) -> float:
    mantissa, bits, sticky, after = 0, 0, False, 0
    for i in range(_LIMBS * _BITS):
        at = _LIMBS * _BITS - 1 - i
        bit = (limbs[at // _BITS] >> (at % _BITS)) & 1
        if bits == 54:
            sticky = sticky or bit == 1
            after += 1
        elif bits > 0 or bit == 1:
            mantissa = (mantissa << 1) | bit
            bits += 1
    if bits < 54:
        return float(mantissa)
    half = mantissa & 1
    mantissa >>= 1
    if half == 1 and (sticky or mantissa & 1 == 1):
        mantissa += 1
    return math.ldexp(float(mantissa), after + 1)
