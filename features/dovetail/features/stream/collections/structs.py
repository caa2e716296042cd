"""Structs of scalars as bytes, so that an entry holds one as it holds a text.

A struct is, in little-endian int64 words: which members are not NULL, a bit each; a word per member, of a text its
length in bytes; then the texts of its members, one after the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.kernels.ordered import from_words, to_words
from dovetail.features.kernels.words import Words, validity_buffer

__all__ = ["pack_structs", "text_bytes", "unpack_structs"]

_Bytes = npt.NDArray[np.uint8]


def pack_structs(array: pa.StructArray) -> pa.LargeBinaryArray:
    """Each struct as bytes; NULL where it is NULL."""
    members = _whole(array).flatten()
    head = np.zeros((len(array), 1 + len(members)), dtype=np.int64)
    texts: list[tuple[Words, _Bytes]] = []
    for index, member in enumerate(members):
        head[:, 0] |= _flags(member).astype(np.int64) << index
        if pa.types.is_string(member.type):
            filled = member.fill_null("").cast(pa.large_string())
            lengths = np.asarray(pc.binary_length(filled).to_numpy(zero_copy_only=False), dtype=np.int64)
            head[:, 1 + index] = lengths
            texts.append((lengths, np.frombuffer(text_bytes(filled), dtype=np.uint8)))
        else:
            head[:, 1 + index] = to_words(member)
    width = 8 * head.shape[1]
    sizes = width + sum((lengths for lengths, _ in texts), np.zeros(len(array), dtype=np.int64))
    present = _flags(array)
    sizes[~present] = 0
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    data = np.empty(offsets[-1], dtype=np.uint8)
    at = offsets[:-1][present]
    data[at[:, None] + np.arange(width)] = head[present].view(np.uint8).reshape(-1, width)
    at = at + width
    for lengths, raw in texts:
        mine = lengths[present]
        data[_places(at, mine)] = raw  # of a NULL struct the members are NULL, and their texts empty
        at = at + mine
    return pa.Array.from_buffers(
        pa.large_binary(), len(array), [validity_buffer(present), pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def unpack_structs(packed: pa.LargeBinaryArray, type_: pa.StructType) -> pa.StructArray:
    """The structs of ``type_`` that :func:`pack_structs` made ``packed`` of."""
    present = _flags(packed)
    if not present.all():
        places = pa.array(np.cumsum(present) - 1, mask=~present)
        return unpack_structs(packed.drop_null(), type_).take(places)
    lengths = np.asarray(pc.binary_length(packed).to_numpy(zero_copy_only=False), dtype=np.int64)
    data = np.frombuffer(text_bytes(packed), dtype=np.uint8)
    width = 8 * (1 + type_.num_fields)
    at = np.cumsum(lengths) - lengths
    head = data[at[:, None] + np.arange(width)].view(np.int64).reshape(-1, 1 + type_.num_fields)
    at = at + width
    members = []
    for index, field in enumerate(type_):
        known = (head[:, 0] >> index) & 1 == 1
        words = np.ascontiguousarray(head[:, 1 + index])
        if pa.types.is_string(field.type):
            offsets = np.concatenate(([0], np.cumsum(words))).astype(np.int64)
            buffers = [validity_buffer(known), pa.py_buffer(offsets), pa.py_buffer(data[_places(at, words)])]
            members.append(pa.Array.from_buffers(pa.large_string(), len(head), buffers).cast(field.type))
            at = at + words
        else:
            members.append(from_words(words, known, field.type))
    return pa.StructArray.from_arrays(members, fields=list(type_))


def text_bytes(text: pa.LargeStringArray | pa.LargeBinaryArray) -> bytes:
    """All values, one after the other."""
    if not len(text):
        return b""
    _, offsets, data = _whole(text).buffers()
    edges = np.frombuffer(offsets, dtype=np.int64, count=len(text) + 1)
    return bytes(data[edges[0] : edges[-1]]) if data is not None else b""


def _whole(array: pa.Array) -> pa.Array:
    """``array`` with buffers of its own, which begin with its first value."""
    return array.take(pa.array(np.arange(len(array)))) if array.offset else array


def _places(starts: Words, lengths: Words) -> Words:
    """The indices of runs of ``lengths`` that begin at ``starts``, one run after the other."""
    before = np.cumsum(lengths) - lengths
    places: Words = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return places


def _flags(array: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
