"""One key's state as bytes: little-endian int64 words, the same on every machine.

::

    header   magic and format version | fingerprint of the layout | watermark | raw rows | partials of each step ...
    raw      event_time[raw] | mask[raw] | values of column 0 [raw] | ...              ascending event_time
    step 0   bucket start[partials] | word 0 of the ops [partials] | word 1 ...        ascending bucket start
    step 1   ...

Columns, not rows: an evaluation reads a run of one column, which the processor adds up many at a time. ``watermark``
is the highest one the state has been collapsed for; the collapse boundaries follow from it. A state that holds nothing
is ``b""``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dovetail.features.kernels.words import Words
from dovetail.features.stream.layout import Layout
from dovetail.platform.compiling import compiled
from dovetail.platform.errors import DamagedState

__all__ = ["MAGIC", "decode", "decode_runs", "encode"]

#: ``b"DVTLST"`` and format version 1, as a little-endian word.
MAGIC = int.from_bytes(b"DVTLST" + (1).to_bytes(2, "little"), "little")

_WORD = 8
#: States decoded at once for reading: as much as stays in a second-level cache, or nearly so.
_RUN_BYTES = 1 << 20
_SOUND, _ODD, _SHORT, _FOREIGN, _OTHER, _MISCOUNTED = range(6)


def decode(layout: Layout, blobs: Sequence[bytes | None]) -> tuple[Words, Words]:
    """All states as one run of words and where each begins, ``starts`` of length ``len(blobs) + 1``; None is empty.

    Raises:
        DamagedState: a blob is not a state of this layout: other version, other definition, or damaged.
    """
    present, edges = _sized(blobs)
    return _joined(layout, present, edges, 0, len(present))


def decode_runs(layout: Layout, blobs: Sequence[bytes | None]) -> Iterator[tuple[int, Words, Words]]:
    """:func:`decode` in runs that stay in the processor's cache: number of the first state, words, starts.

    Many states at once would be copied to fresh memory and read back from there, which takes several times as long.

    Raises:
        DamagedState: as :func:`decode`, when the run with that blob is asked for.
    """
    present, edges = _sized(blobs)
    first = 0
    while first < len(present):
        last = int(np.searchsorted(edges, edges[first] + _RUN_BYTES, side="right")) - 1
        last = max(last, first + 1)
        yield first, *_joined(layout, present, edges, first, last)
        first = last


def encode(words: Words, starts: Words) -> list[bytes]:
    """The inverse of :func:`decode`: one ``bytes`` per state."""
    data = words.view(np.uint8).data
    ends = (starts * _WORD).tolist()
    return [bytes(data[first:last]) for first, last in pairwise(ends)]


def _sized(blobs: Sequence[bytes | None]) -> tuple[list[bytes], Words]:
    """The blobs with ``b""`` for None, and where each begins when they stand in a row, in bytes."""
    present = [blob or b"" for blob in blobs]
    edges = np.zeros(len(present) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, present), dtype=np.int64, count=len(present)), out=edges[1:])
    return present, edges


def _joined(layout: Layout, present: list[bytes], edges: Words, first: int, last: int) -> tuple[Words, Words]:
    mine = edges[first : last + 1] - edges[first]
    starts = mine // _WORD
    data = b"".join(present[first:last])
    words = np.frombuffer(data, dtype=np.int64, count=len(data) // _WORD)
    state, fault = _first_fault(words, mine, layout.fingerprint, _words_per_item(layout))
    if fault != _SOUND:
        raise DamagedState(_refusal(layout, fault, first + state, words[starts[state] : starts[state] + 1]))
    return words, starts


def _words_per_item(layout: Layout) -> Words:
    return np.array([layout.row_words, *(step.words for step in layout.steps)], dtype=np.int64)


@compiled
def _first_fault(words: Words, edges: Words, fingerprint: int, words_per_item: Words) -> tuple[int, int]:
    """The first state that is none of the layout's, and what is wrong with it; ``edges`` in bytes."""
    header = 3 + words_per_item.size
    for s in range(edges.size - 1):
        if (edges[s + 1] - edges[s]) % _WORD != 0:
            return s, _ODD
    for s in range(edges.size - 1):
        base, length = edges[s] // _WORD, (edges[s + 1] - edges[s]) // _WORD
        if length == 0:
            continue
        if length < header:
            return s, _SHORT
        if words[base] != MAGIC:
            return s, _FOREIGN
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


def _refusal(layout: Layout, fault: int, index: int, begins: Words) -> str:
    of = f"view {layout.view.name}: state {index} of the batch"
    if fault == _FOREIGN:
        return (
            f"{of} is not a version-1 feature state (it begins with {begins.tobytes()!r}); "
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
    }[fault]
    return f"{of} is damaged: {why}; rebuild the state with `dovetail bootstrap`"
