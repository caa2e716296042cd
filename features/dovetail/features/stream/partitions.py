"""The partition of each key of a column: Kafka's default partitioner, compiled.

The hash is Austin Appleby's 32-bit MurmurHash2 with the seed that Kafka's clients use, over the UTF-8 text of the key;
``transports/partitioning.py`` gives the same answer for one key.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.kernels.words import Words
from dovetail.platform.compiling import compiled

__all__ = ["partitions_of"]

# Words are int64, also those of 32 bits: a product of two is below 2**63, as the multiplier is below 2**31.
_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_LOW_32 = 0xFFFFFFFF


def partitions_of(keys: pa.Array | pa.ChunkedArray, partitions: int) -> Words:
    """The partition, among ``partitions``, of each key: int64 ``[n]``.

    A key is hashed as text: strings as they are, other types as Arrow writes them (12 is ``12``). NULL is empty text.
    """
    column = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    texts = column.cast(pa.large_string()).fill_null("")
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    for words in (text, bounds):
        words.setflags(write=False)  # one signature for the kernel, whoever owns the memory
    return _hashes(text, bounds) % partitions


@compiled
def _hashes(text: npt.NDArray[np.uint8], bounds: Words) -> Words:
    """The hash of each text, without its sign bit."""
    hashes = np.empty(len(bounds) - 1, np.int64)
    for i in range(len(hashes)):
        start, stop = bounds[i], bounds[i + 1]
        tail = start + (stop - start) // 4 * 4
        h = _SEED ^ (stop - start)
        for at in range(start, tail, 4):
            k = np.int64(0)
            for byte in range(4):
                k |= np.int64(text[at + byte]) << (8 * byte)
            k = (k * _MULTIPLIER) & _LOW_32
            k ^= k >> 24
            h = ((h * _MULTIPLIER) & _LOW_32) ^ ((k * _MULTIPLIER) & _LOW_32)
        if tail < stop:
            for byte in range(stop - tail):
                h ^= np.int64(text[tail + byte]) << (8 * byte)
            h = (h * _MULTIPLIER) & _LOW_32
        h ^= h >> 13
        h = (h * _MULTIPLIER) & _LOW_32
        hashes[i] = (h ^ (h >> 15)) & 0x7FFFFFFF
    return hashes
