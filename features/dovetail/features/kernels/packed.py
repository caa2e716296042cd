"""Words as fewer bytes: each as its difference to the one before, in as many bytes as that needs.

States are columns of times that ascend, counts that are small and sums that resemble each other: packed they take a
third of their words. A difference wraps at 64 bits, and its sign is moved to the lowest bit. Packed words are::

    count    how many words, uint32
    widths   of each word, 0 to 8 bytes, in 4 bits; the first of two words in the lower ones; an odd last one is 0
    bytes    of each difference, little-endian

Widths stand by themselves so that reading knows no branches: it goes through words as fast as it finds their bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.features.kernels.words import Words
from dovetail.platform.compiling import compiled

__all__ = ["MOST", "SPARE", "Octets", "count_words", "pack_words", "unpack_words"]

Octets = npt.NDArray[np.uint8]

#: So many bytes a packed word takes at most, and so many come before the words.
MOST = 9
#: So many bytes must follow the last word in memory: they are read, and not looked at.
SPARE = 8
_COUNT = 4
_WORD = 8


@compiled
def pack_words(words: Words, first: int, last: int, out: Octets, at: int) -> int:
    """Write ``words[first:last]`` at ``out[at:]``, which has room for ``MOST`` bytes each and twice as many again.

    Returns where they end; what is behind that is changed, too.
    """
    count = last - first
    for i in range(_COUNT):
        out[at + i] = np.uint8((count >> (8 * i)) & 255)
    widths = at + _COUNT
    end = np.uint64(widths + (count + 1) // 2)
    before = np.int64(0)
    for i in range(count):
        word = words[first + i]
        difference = word - before
        before = word
        rest = np.uint64((difference << np.int64(1)) ^ (difference >> np.int64(63)))
        width = 0
        for b in range(_WORD):  # unrolled: all eight bytes are written, and those that are not needed written over
            out[end + np.uint64(b)] = np.uint8((rest >> np.uint64(8 * b)) & np.uint64(255))
            width += (rest >> np.uint64(8 * b)) != np.uint64(0)
        end += np.uint64(width)
        if i % 2 == 0:
            out[widths + i // 2] = np.uint8(width)
        else:
            out[widths + i // 2] |= np.uint8(width << 4)
    return int(np.int64(end))


@compiled
def count_words(data: Octets, first: int, last: int) -> int:
    """How many words ``data[first:last]`` holds; -1 where it is nothing that :func:`pack_words` wrote."""
    if last - first < _COUNT:
        return -1
    count = 0
    for i in range(_COUNT):
        count |= int(np.int64(data[first + i])) << (8 * i)
    widths = first + _COUNT
    end = widths + (count + 1) // 2
    if end > last:
        return -1
    size, wider = np.int64(0), np.uint8(0)
    for i in range(np.uint64(widths), np.uint64(end)):
        low, high = data[i] & np.uint8(15), data[i] >> np.uint8(4)
        size += low
        size += high
        wider |= np.uint8(low > 8) | np.uint8(high > 8)
    if wider or (count % 2 == 1 and data[end - 1] > 15) or end + size != last:
        return -1
    return count


@compiled
def unpack_words(data: Octets, first: int, count: int, out: Words, at: int) -> None:
    """Write the words at ``data[first:]``, which :func:`count_words` has counted, at ``out[at:]``."""
    widths = np.uint64(first + _COUNT)
    here = widths + np.uint64((count + 1) // 2)
    one, four, byte, all_bits = np.uint64(1), np.uint64(4), np.uint64(8), np.uint64(0xFFFFFFFFFFFFFFFF)
    before = np.int64(0)
    for i in range(np.uint64(count)):
        width = (np.uint64(data[widths + (i >> one)]) >> (four * (i & one))) & np.uint64(15)
        found = (
            np.uint64(data[here])
            | np.uint64(data[here + one]) << np.uint64(8)
            | np.uint64(data[here + np.uint64(2)]) << np.uint64(16)
            | np.uint64(data[here + np.uint64(3)]) << np.uint64(24)
            | np.uint64(data[here + np.uint64(4)]) << np.uint64(32)
            | np.uint64(data[here + np.uint64(5)]) << np.uint64(40)
            | np.uint64(data[here + np.uint64(6)]) << np.uint64(48)
            | np.uint64(data[here + np.uint64(7)]) << np.uint64(56)
        )
        # Twice half the shift: of 64 bits at once, for no bytes, a shift does nothing.
        half = four * (byte - width)
        rest = found & ((all_bits >> half) >> half)
        here += width
        before += np.int64(rest >> one) ^ -np.int64(rest & one)
        out[np.uint64(at) + i] = before
