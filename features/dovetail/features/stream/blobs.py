"""One key's state as words, and the words as bytes that are the same on every machine.

In words, int64::

    header   magic and format version | fingerprint of the layout | watermark | raw rows | partials of each step ...
    raw      event_time[raw] | mask[raw] | values of column 0 [raw] | ...              ascending event_time
    step 0   bucket start[partials] | word 0 of the ops [partials] | word 1 ...        ascending bucket start
    step 1   ...

Columns, not rows: an evaluation reads a run of one column, which the processor adds up many at a time. ``watermark``
is the highest one the state has been collapsed for; the collapse boundaries follow from it. A state that holds nothing
is ``b""``.

In bytes, version 3 has the first two words, little-endian, and then the others packed (``kernels/packed.py``): what is
read and written of a state is a fraction of its words. Version 1 has the words themselves, little-endian; it is read,
and a state that was kept so is packed when it changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from dovetail.features.kernels.packed import MOST, SPARE, Octets, count_words, pack_words, unpack_words
from dovetail.features.kernels.words import Words
from dovetail.features.stream.layout import Layout
from dovetail.platform.compiling import compiled
from dovetail.platform.errors import DamagedState

__all__ = ["MAGIC", "decode", "decode_runs", "encode"]

#: ``b"DVTLST"`` and format version 1, as a little-endian word: what every state begins with in words.
MAGIC = int.from_bytes(b"DVTLST" + (1).to_bytes(2, "little"), "little")
_PACKED = int.from_bytes(b"DVTLST" + (3).to_bytes(2, "little"), "little")

_WORD = 8
_HEAD = 2 * _WORD
#: Words of states decoded at once for reading, in bytes: as much as stays in a second-level cache, or nearly so.
_RUN_BYTES = 1 << 20
_SOUND, _ODD, _SHORT, _FOREIGN, _OTHER, _MISCOUNTED, _UNREADABLE = range(7)


def decode(layout: Layout, blobs: Sequence[bytes | None]) -> tuple[Words, Words]:
    """All states as one run of words and where each begins, ``starts`` of length ``len(blobs) + 1``; None is empty.

    Raises:
        DamagedState: a blob is not a state of this layout: other version, other definition, or damaged.
    """
    data, edges, starts = _sized(layout, blobs)
    return _unpacked(layout, data, edges, starts, 0, len(blobs))


def decode_runs(layout: Layout, blobs: Sequence[bytes | None]) -> Iterator[tuple[int, Words, Words]]:
    """:func:`decode` in runs that stay in the processor's cache: number of the first state, words, starts.

    Many states at once would be copied to fresh memory and read back from there, which takes several times as long.

    Raises:
        DamagedState: as :func:`decode`, at the latest when the run with that blob is asked for.
    """
    data, edges, starts = _sized(layout, blobs)
    first = 0
    while first < len(blobs):
        last = int(np.searchsorted(starts, starts[first] + _RUN_BYTES // _WORD, side="right")) - 1
        last = max(last, first + 1)
        yield first, *_unpacked(layout, data, edges, starts, first, last)
        first = last


def encode(words: Words, starts: Words) -> list[bytes]:
    """The inverse of :func:`decode`: one ``bytes`` per state."""
    room, ends = _pack(words, starts)
    data = room.data
    return [bytes(data[first:last]) for first, last in pairwise(ends.tolist())]


def _sized(layout: Layout, blobs: Sequence[bytes | None]) -> tuple[Octets, Words, Words]:
    """The blobs in a row, where each begins in there, and where its words will."""
    present = [blob or b"" for blob in blobs]
    edges = np.zeros(len(present) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, present), dtype=np.int64, count=len(present)), out=edges[1:])
    data = np.frombuffer(b"".join((*present, bytes(SPARE))), dtype=np.uint8)
    starts, state, fault = _lengths(data, edges)
    if fault != _SOUND:
        raise DamagedState(_refusal(layout, fault, state, present[state]))
    return data, edges, starts


def _unpacked(layout: Layout, data: Octets, edges: Words, starts: Words, first: int, last: int) -> tuple[Words, Words]:
    words = _unpack(data, edges, starts, first, last)
    words.flags.writeable = False  # nobody may change states in place
    mine = starts[first : last + 1] - starts[first]
    state, fault = _first_fault(words, mine, layout.fingerprint, _words_per_item(layout))
    if fault != _SOUND:
        at = first + state
        raise DamagedState(_refusal(layout, fault, at, data[edges[at] : edges[at + 1]].tobytes()))
    return words, mine


@lru_cache(maxsize=256)
def _words_per_item(layout: Layout) -> Words:
    return np.array([layout.row_words, *(step.words for step in layout.steps)], dtype=np.int64)


@compiled
def _word_at(data: Octets, at: int) -> int:
    """The little-endian word at ``data[at:]``."""
    word = np.uint64(0)
    for i in range(_WORD):
        word |= np.uint64(data[at + i]) << np.uint64(_WORD * i)
    return int(np.int64(word))


@compiled
def _pack(words: Words, starts: Words) -> tuple[Octets, Words]:
    """The states packed, one after the other, and where each begins."""
    states = starts.size - 1
    out = np.empty(states * (_HEAD + MOST) + (starts[states] + 2) * MOST, np.uint8)
    ends = np.zeros(states + 1, np.int64)
    at = 0
    for s in range(states):
        first, last = starts[s], starts[s + 1]
        if last - first >= 2:
            magic, fingerprint = np.uint64(_PACKED), np.uint64(words[first + 1])
            for i in range(_WORD):
                out[at + i] = np.uint8((magic >> np.uint64(_WORD * i)) & np.uint64(255))
                out[at + _WORD + i] = np.uint8((fingerprint >> np.uint64(_WORD * i)) & np.uint64(255))
            at = pack_words(words, first + 2, last, out, at + _HEAD)
        ends[s + 1] = at
    return out, ends


@compiled
def _lengths(data: Octets, edges: Words) -> tuple[Words, int, int]:
    """Where the words of each state will begin; and the first of which they cannot be counted, with what is wrong."""
    states = edges.size - 1
    starts = np.zeros(states + 1, np.int64)
    for s in range(states):
        first, last = edges[s], edges[s + 1]
        size = last - first
        if size >= _HEAD and _word_at(data, first) == _PACKED:
            words = count_words(data, first + _HEAD, last)
            if words < 0:
                return starts, s, _UNREADABLE
            starts[s + 1] = starts[s] + 2 + words
        elif size >= _WORD and _word_at(data, first) != MAGIC:
            return starts, s, _FOREIGN if _word_at(data, first) != _PACKED else _SHORT
        elif size % _WORD != 0:
            return starts, s, _ODD
        else:
            starts[s + 1] = starts[s] + size // _WORD
    return starts, -1, _SOUND


@compiled
def _unpack(data: Octets, edges: Words, starts: Words, first: int, last: int) -> Words:
    """The words of states ``first`` to ``last``."""
    words = np.empty(starts[last] - starts[first], np.int64)
    for s in range(first, last):
        begin, end, at = edges[s], edges[s + 1], starts[s] - starts[first]
        if begin == end:
            continue
        if _word_at(data, begin) == _PACKED:
            words[at], words[at + 1] = MAGIC, _word_at(data, begin + _WORD)
            unpack_words(data, begin + _HEAD, starts[s + 1] - starts[s] - 2, words, at + 2)
        else:
            for i in range((end - begin) // _WORD):
                words[at + i] = _word_at(data, begin + _WORD * i)
    return words


@compiled
def _first_fault(words: Words, starts: Words, fingerprint: int, words_per_item: Words) -> tuple[int, int]:
    """The first state that is none of the layout's, and what is wrong with it."""
    header = 3 + words_per_item.size
    for s in range(starts.size - 1):
        base, length = starts[s], starts[s + 1] - starts[s]
        if length == 0:
            continue
        if length < header:
            return s, _SHORT
        if words[base + 1] != fingerprint:
            return s, _OTHER
        expected = header
        for i in range(words_per_item.size):
            count = words[base + 3 + i]
            if count < 0 or count > length:
                return s, _MISCOUNTED
            expected += count * words_per_item[i]
        if expected != length:
            return s, _MISCOUNTED
    return -1, _SOUND


def _refusal(layout: Layout, fault: int, index: int, blob: bytes) -> str:
    of = f"view {layout.view.name}: state {index} of the batch"
    if fault == _FOREIGN:
        return (
            f"{of} is not a feature state of version 1 or 3 (it begins with {blob[:_WORD]!r}); "
            "use the release that wrote it, or rebuild the state with `dovetail bootstrap`"
        )
    if fault == _OTHER:
        return (
            f"{of} was kept for another definition of the view; "
            "restore the definition, give the new one another name, or rebuild the state with `dovetail bootstrap`"
        )
    why = {
        _ODD: "its length is not a multiple of 8",
        _SHORT: "it is shorter than its header",
        _MISCOUNTED: "its length and its counts disagree",
        _UNREADABLE: "its length and the widths of its words disagree",
    }[fault]
    return f"{of} is damaged: {why}; rebuild the state with `dovetail bootstrap`"
