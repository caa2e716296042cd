"""Bloom filters of the keys in a file: whether a file may have rows of a key, told without opening it.

A filter is stored and outlives the process, so its hash is of this module: the same for every version of a library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["MOST_KEYS", "KeyMark", "filter_of", "hashes_of", "marks_of", "may_hold", "mixed"]

#: A file with more different keys gets no filter: it is large, and its own statistics and row groups are enough.
MOST_KEYS = 20_000
#: Ten bits a key and seven looks: one file in 120 is opened in vain.
_BITS_PER_KEY, _LOOKS = 10, 7
#: Bytes of a key that are hashed, besides its length.
_BYTES = 64
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,99}\s*")
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class KeyMark(NamedTuple):
    """The two numbers of a key by which its bits are found."""

    start: int
    step: int


def filter_of(column: pa.ChunkedArray) -> bytes | None:
    """The filter of the values of ``column``, of integers or text; None: of another type, or of too many values.

    NULL is no key.
    """
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        return None
    keys = pc.unique(column).drop_null()
    if len(keys) > MOST_KEYS:
        return None
    starts, steps = _numbers(keys.cast(pa.string()))
    size = max(64, -(-len(keys) * _BITS_PER_KEY // 64) * 64)
    places = (starts[:, None] + steps[:, None] * np.arange(_LOOKS, dtype=np.uint64)) % np.uint64(size)
    bits = np.zeros(size, dtype=np.bool_)
    bits[places.ravel().astype(np.int64)] = True
    return np.packbits(bits).tobytes()


def marks_of(values: Sequence[Any]) -> list[KeyMark]:
    """The marks of keys that are looked for. Text that is a number is looked for as that number, too."""
    texts = {str(value) for value in values if value is not None}
    texts |= {str(int(text)) for text in texts if _NUMBER.fullmatch(text)}
    starts, steps = _numbers(pa.array(sorted(texts), pa.string()))
    return [KeyMark(*pair) for pair in zip(starts.tolist(), steps.tolist(), strict=True)]


def may_hold(bits: bytes, marks: Iterable[KeyMark]) -> bool:
    """Whether a file with this filter may have a row of one of the keys; if not, it has none."""
    size = len(bits) * 8
    return any(
        all(
            bits[place >> 3] & (128 >> (place & 7))
            for place in ((start + step * look) % 2**64 % size for look in range(_LOOKS))
        )
        for start, step in marks
    )


def _numbers(keys: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    first = hashes_of(keys)
    return first, mixed(first) | np.uint64(1)


def hashes_of(keys: pa.Array) -> npt.NDArray[np.uint64]:
    """A hash of each text, without NULLs: FNV-1a over its first bytes and its length, mixed."""
    _, offsets, data = keys.buffers() if len(keys) else (None, None, None)
    if offsets is None:
        return np.empty(0, np.uint64)
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    letters = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    starts, lengths = ends[:-1], np.diff(ends)
    hashed = np.full(len(keys), _OFFSET) ^ lengths.astype(np.uint64)
    for place in range(min(_BYTES, int(lengths.max(initial=0)))):
        live = np.flatnonzero(lengths > place)
        hashed[live] = (hashed[live] ^ letters[starts[live] + place]) * _PRIME
    return mixed(hashed)


def mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """``numbers`` as hashes: each bit of one is in every bit of the other (the finaliser of SplitMix64)."""
    for factor, shift in zip(_MIX, (np.uint64(30), np.uint64(27)), strict=True):
        numbers = (numbers ^ (numbers >> shift)) * factor
    return numbers ^ (numbers >> np.uint64(31))
