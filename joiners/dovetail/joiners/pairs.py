"""Numba kernels over Arrow string buffers: a 64-bit hash of two strings, and finding one set of pairs in another.

The hash is FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/) over the first string, the byte 0x1f and the second,
finished by the fmix64 of MurmurHash3 because FNV's high bits are poor for short strings. It decides which negatives
are sampled, so it is part of what a sample means: the batch join computes it again, in SQL.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.platform.compiling import compiled

__all__ = ["find_pairs", "hash_pairs"]

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

_OFFSET_BASIS = np.uint64(14695981039346656037)
_PRIME = np.uint64(1099511628211)
_SEPARATOR = np.uint64(0x1F)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_HALF = np.uint64(33)


@compiled
def hash_pairs(left: Bytes, left_at: Offsets, right: Bytes, right_at: Offsets) -> npt.NDArray[np.uint64]:
    """Hash of each pair of strings, uint64 [n]; ``*_at`` int64 [n + 1] are the strings' boundaries in their bytes."""
    n = len(left_at) - 1
    hashes = np.empty(n, dtype=np.uint64)
    for i in range(n):
        h = _OFFSET_BASIS
        for at in range(left_at[i], left_at[i + 1]):
            h = (h ^ np.uint64(left[at])) * _PRIME
        h = (h ^ _SEPARATOR) * _PRIME
        for at in range(right_at[i], right_at[i + 1]):
            h = (h ^ np.uint64(right[at])) * _PRIME
        h = (h ^ (h >> _HALF)) * _MIX_1
        h = (h ^ (h >> _HALF)) * _MIX_2
        hashes[i] = h ^ (h >> _HALF)
    return hashes


@compiled
def _same(a: Bytes, a_from: int, a_to: int, b: Bytes, b_from: int, b_to: int) -> bool:
    if a_to - a_from != b_to - b_from:
        return False
    for k in range(a_to - a_from):  # noqa: SIM110 - numba compiles loops, not generators
        if a[a_from + k] != b[b_from + k]:
            return False
    return True


@compiled
def find_pairs(
    hashes: npt.NDArray[np.uint64],
    left: Bytes,
    left_at: Offsets,
    right: Bytes,
    right_at: Offsets,
    known: npt.NDArray[np.uint64],
    known_left: Bytes,
    known_left_at: Offsets,
    known_right: Bytes,
    known_right_at: Offsets,
) -> npt.NDArray[np.int64]:
    """For each pair, the index of the known pair it equals, -1 where there is none; int64 [n].

    Known pairs are distinct. Equal hashes are settled by comparing the strings.
    """
    size = 16
    while size < 2 * len(known):
        size *= 2
    mask = np.uint64(size - 1)
    table = np.full(size, -1, dtype=np.int64)
    for j in range(len(known)):
        slot = known[j] & mask
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = j
    found = np.empty(len(hashes), dtype=np.int64)
    for i in range(len(hashes)):
        slot = hashes[i] & mask
        found[i] = -1
        while table[slot] >= 0:
            j = table[slot]
            if (
                known[j] == hashes[i]
                and _same(left, left_at[i], left_at[i + 1], known_left, known_left_at[j], known_left_at[j + 1])
                and _same(right, right_at[i], right_at[i + 1], known_right, known_right_at[j], known_right_at[j + 1])
            ):
                found[i] = j
                break
            slot = (slot + np.uint64(1)) & mask
    return found
