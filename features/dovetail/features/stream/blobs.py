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

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dovetail.features.stream.kernel import Words
from dovetail.features.stream.layout import Layout
from dovetail.platform.errors import StateError

__all__ = ["MAGIC", "decode", "encode"]

#: ``b"DVTLST"`` and format version 1, as a little-endian word.
MAGIC = int.from_bytes(b"DVTLST" + (1).to_bytes(2, "little"), "little")

_WORD = 8


def decode(layout: Layout, blobs: Sequence[bytes | None]) -> tuple[Words, Words]:
    """All states as one run of words and where each begins, ``starts`` of length ``len(blobs) + 1``; None is empty.

    Raises:
        StateError: a blob is not a state of this layout: other version, other definition, or damaged.
    """
    present = [blob or b"" for blob in blobs]
    lengths = np.fromiter(map(len, present), dtype=np.int64, count=len(present))
    odd = lengths % _WORD != 0
    if odd.any():
        raise StateError(_damaged(layout, int(np.argmax(odd)), "its length is not a multiple of 8"))
    starts = np.zeros(len(present) + 1, dtype=np.int64)
    np.cumsum(lengths // _WORD, out=starts[1:])
    words = np.frombuffer(b"".join(present), dtype=np.int64)
    _check(layout, words, starts)
    return words, starts


def encode(words: Words, starts: Words) -> list[bytes]:
    """The inverse of :func:`decode`: one ``bytes`` per state."""
    data = words.view(np.uint8).data
    ends = (starts * _WORD).tolist()
    return [bytes(data[first:last]) for first, last in pairwise(ends)]


def _check(layout: Layout, words: Words, starts: Words) -> None:
    lengths = np.diff(starts)
    held = np.flatnonzero(lengths)
    short = lengths[held] < layout.header_words
    if short.any():
        raise StateError(_damaged(layout, int(held[np.argmax(short)]), "it is shorter than its header"))
    header = words[starts[held, None] + np.arange(layout.header_words)]
    foreign = header[:, 0] != MAGIC
    if foreign.any():
        raise StateError(
            f"{_of(layout, int(held[np.argmax(foreign)]))} is not a version-1 feature state (it begins with "
            f"{int(header[np.argmax(foreign), 0]).to_bytes(_WORD, 'little', signed=True)!r}); "
            "use the release that wrote it, or rebuild the state with `dovetail bootstrap`"
        )
    other = header[:, 1] != layout.fingerprint
    if other.any():
        raise StateError(
            f"{_of(layout, int(held[np.argmax(other)]))} was kept for another definition of the view; "
            "restore the definition, give the new one another name, or rebuild the state with `dovetail bootstrap`"
        )
    counts = header[:, 3:]
    words_per_item = [layout.row_words] + [step.words for step in layout.steps]
    wrong = (counts < 0).any(axis=1) | (layout.header_words + counts @ np.array(words_per_item) != lengths[held])
    if wrong.any():
        raise StateError(_damaged(layout, int(held[np.argmax(wrong)]), "its length and its counts disagree"))


def _of(layout: Layout, index: int) -> str:
    return f"view {layout.view.name}: state {index} of the batch"


def _damaged(layout: Layout, index: int, why: str) -> str:
    return f"{_of(layout, index)} is damaged: {why}; rebuild the state with `dovetail bootstrap`"
