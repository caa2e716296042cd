"""Entries in memory and in a key's blob.

A state with collections is, in little-endian int64 words::

    header   magic | fingerprint | watermark | partition | bytes of the folded part | entries, text bytes of each ...
    folded   the state of the folded aggregates, as ``blobs.py`` has it; may be empty
    entries  of each collection, ``Collection.columns`` words each, in total order
    text     of each collection, one value after the other; their lengths are the entries' value words
    padding  to a multiple of 8 bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.kernels.words import Words
from dovetail.features.stream.collections.rules import CollectionLayout
from dovetail.features.stream.collections.structs import text_bytes
from dovetail.platform.errors import DamagedState

__all__ = ["COUNTS", "NOT_NULL", "Entries", "States", "coded", "decode_states", "encode_states"]

MAGIC = int.from_bytes(b"DVTLST" + (2).to_bytes(2, "little"), "little")
#: Flags of an entry: the aggregates count it; its value is not NULL.
COUNTS, NOT_NULL = 1, 2
_FIXED = 5


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of one collection: ``words`` int64 ``[E, columns]``, ``owners`` int64 ``[E]``; values that are texts, or
    structs as ``structs.py`` packs them, or None.

    Columns: event time, position (``positions.pack``), flags, value; then what orders the entry, or count, lo, hi.
    """

    owners: Words
    words: Words
    text: pa.LargeStringArray | pa.LargeBinaryArray | None

    def take(self, rows: npt.NDArray[np.int64]) -> Entries:
        """The entries at ``rows``, in that order."""
        text = None if self.text is None else self.text.take(pa.array(rows))
        return Entries(self.owners[rows], self.words[rows], text)

    @staticmethod
    def concat(parts: Sequence[Entries]) -> Entries:
        """All entries, one part after the other."""
        texts = [part.text for part in parts if part.text is not None]
        return Entries(
            np.concatenate([part.owners for part in parts]),
            np.concatenate([part.words for part in parts]),
            pa.concat_arrays(texts) if texts else None,
        )


@dataclass(frozen=True, slots=True)
class States:
    """Decoded states: watermark and source partition of each (int64 ``[K]``), folded parts, entries by collection."""

    watermarks: Words
    partitions: Words
    folded: list[bytes]
    entries: tuple[Entries, ...]


def coded(entries: Entries) -> tuple[Words, int]:
    """The values as dense codes in DuckDB's order, and how many distinct ones there are. NULLs have any code."""
    if entries.text is None:
        distinct, codes = np.unique(entries.words[:, 3], return_inverse=True)
        return codes.astype(np.int64), len(distinct)
    encoded = entries.text.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), dtype=np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    at = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    if not len(ranks):
        return np.zeros(len(at), dtype=np.int64), 1
    return ranks[at], len(ranks)


def decode_states(layout: CollectionLayout, blobs: Sequence[bytes | None]) -> States:
    """The inverse of :func:`encode_states`; None and ``b""`` hold nothing.

    Raises:
        DamagedState: a blob is not a state of this layout: other version, other definition, or damaged.
    """
    width = _FIXED + 2 * len(layout.collections)
    headers = np.zeros((len(blobs), width), dtype=np.int64)
    headers[:, 2] = np.iinfo(np.int64).min
    for i, blob in enumerate(blobs):
        if blob:
            headers[i] = _header(layout, i, blob, width)
    held = np.array([bool(blob) for blob in blobs], dtype=np.bool_)
    at = np.where(held, 8 * width, 0)
    folded = [
        bytes(blob[a : a + n]) if blob else b""
        for blob, a, n in zip(blobs, at.tolist(), headers[:, 4].tolist(), strict=True)
    ]
    at = at + headers[:, 4]
    words = []
    for c, collection in enumerate(layout.collections):
        size = 8 * collection.columns * headers[:, _FIXED + 2 * c]
        joined = b"".join(b[a : a + n] for b, a, n in zip(blobs, at.tolist(), size.tolist(), strict=True) if b)
        words.append(np.frombuffer(joined, dtype=np.int64).reshape(-1, collection.columns))
        at = at + size
    entries = []
    for c, collection in enumerate(layout.collections):
        owners = np.repeat(np.arange(len(blobs)), headers[:, _FIXED + 2 * c])
        text = None
        kept_as = layout.text_type(collection)
        if kept_as is not None:
            size = headers[:, _FIXED + 2 * c + 1]
            joined = b"".join(b[a : a + n] for b, a, n in zip(blobs, at.tolist(), size.tolist(), strict=True) if b)
            at = at + size
            text = _texts(words[c][:, 3], joined, kept_as)
        entries.append(Entries(owners, words[c], text))
    return States(headers[:, 2].copy(), headers[:, 3].copy(), folded, tuple(entries))


def encode_states(layout: CollectionLayout, states: States, keys: int) -> list[bytes]:
    """One ``bytes`` per key, ``b""`` where nothing is kept. Entries are ordered by owner."""
    headers = np.zeros((keys, _FIXED + 2 * len(layout.collections)), dtype=np.int64)
    headers[:, 0], headers[:, 1] = MAGIC, layout.fingerprint
    headers[:, 2], headers[:, 3] = states.watermarks, states.partitions
    headers[:, 4] = [len(part) for part in states.folded]
    parts: list[tuple[memoryview, list[int]]] = []
    texts: list[tuple[memoryview, list[int]]] = []
    for c, (collection, entries) in enumerate(zip(layout.collections, states.entries, strict=True)):
        counts = np.bincount(entries.owners, minlength=keys)
        headers[:, _FIXED + 2 * c] = counts
        words = np.ascontiguousarray(entries.words)
        parts.append((memoryview(words.tobytes()), _edges(8 * collection.columns * counts)))
        if entries.text is not None:
            lengths = np.zeros(keys, dtype=np.int64)
            np.add.at(lengths, entries.owners, np.maximum(words[:, 3], 0))
            headers[:, _FIXED + 2 * c + 1] = lengths
            texts.append((memoryview(text_bytes(entries.text)), _edges(lengths)))
    encoded = []
    raw = memoryview(np.ascontiguousarray(headers).tobytes())
    width = 8 * headers.shape[1]
    some = headers[:, 4] + headers[:, _FIXED::2].sum(axis=1) > 0
    for key in range(keys):
        if not some[key]:
            encoded.append(b"")
            continue
        pieces: list[memoryview | bytes] = [raw[width * key : width * (key + 1)], states.folded[key]]
        pieces += [data[edges[key] : edges[key + 1]] for data, edges in (*parts, *texts)]
        blob = b"".join(pieces)
        encoded.append(blob + bytes(-len(blob) % 8))
    return encoded


def _header(layout: CollectionLayout, index: int, blob: bytes, width: int) -> Words:
    of = f"view {layout.view.name}: state {index} of the batch"
    rebuild = "rebuild the state with `dovetail bootstrap`"
    if len(blob) < 8 * width or len(blob) % 8:
        raise DamagedState(f"{of} is damaged: {len(blob)} bytes; {rebuild}")
    header = np.frombuffer(blob, dtype=np.int64, count=width)
    if header[0] != MAGIC:
        raise DamagedState(
            f"{of} is not a version-2 feature state (it begins with {blob[:8]!r}); "
            f"use the release that wrote it, or {rebuild}"
        )
    if header[1] != layout.fingerprint:
        raise DamagedState(
            f"{of} was kept for another definition of the view; restore the definition, give the new one another "
            f"name, or {rebuild}"
        )
    sizes = header[4:].tolist()
    length = 8 * width + sizes[0]
    for c, collection in enumerate(layout.collections):
        length += 8 * collection.columns * sizes[1 + 2 * c] + sizes[2 + 2 * c]
    if min(sizes) < 0 or length + -length % 8 != len(blob):
        raise DamagedState(f"{of} is damaged: its length and its counts disagree; {rebuild}")
    return header


def _edges(sizes: npt.NDArray[np.int64]) -> list[int]:
    edges: list[int] = np.concatenate(([0], np.cumsum(sizes))).tolist()
    return edges


def _texts(lengths: Words, joined: bytes, type_: pa.DataType) -> pa.LargeStringArray | pa.LargeBinaryArray:
    offsets = np.concatenate(([0], np.cumsum(np.maximum(lengths, 0))))
    present = lengths >= 0
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(joined)]
    return pa.Array.from_buffers(type_, len(lengths), buffers)
