"""Long lists in chunks: of the entries of a key, the older ones stand in states of their own.

A collection of the last k events, k above ``MAX_LISTED``, is cut wherever an entry's position says so, by a hash: at
one in :data:`EACH` entries on average. What is behind the last cut stays in the key's state, its *head*. What lies
between two cuts is a *chunk*, known by the position of its first entry, or by -1 before the first cut. A *directory*
names the chunks of a key. So an event that comes in order changes the head, one in :data:`EACH` makes a chunk of it,
and a late one changes the chunk it falls into: what an event costs does not grow with k. Where the cuts are depends on
the entries alone, neither on their order of arrival nor on how polls were cut.

A chunk is a state as any other, with the entries of one collection and no watermark: whoever reads a key gives the
engine its chunks beside its head. Chunks leave from the oldest on, once k entries of later chunks are at or before
the earliest time that may be asked for, or all their entries are before the longest window; entries that the rules
drop from the middle of the oldest chunk stay until then, and are never picked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.kernels.integers import INT64_MAX, INT64_MIN
from dovetail.features.kernels.words import Words
from dovetail.features.stream.collections.entries import Entries, States, decode_states, encode_states
from dovetail.features.stream.collections.rules import CollectionLayout, lowest_kept
from dovetail.platform.errors import DamagedState

__all__ = ["EACH", "ChunkPlace", "ReadChunks", "chunks_named", "directory_suffix", "is_cut", "seal"]

#: How many entries a chunk has on average; a power of two.
EACH = 128
_LEADING = -1
_TAG = b"#"  # no part of a key begins with it, see ``keys.py``
_MAGIC = int.from_bytes(b"DVTLDR" + (1).to_bytes(2, "little"), "little")
_ID, _TIME, _COUNT, _LAST = range(4)
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

#: A key of a batch by its index, and what is appended to the key: where a chunk or a directory is stored.
ChunkPlace = tuple[int, bytes]
#: Reads the states stored at some places of one source partition.
ReadChunks = Callable[[Sequence[ChunkPlace]], Sequence[bytes | None]]


class _Sealed(NamedTuple):
    """The entries of a head, and the chunks and directories that changed; ``b""`` is gone."""

    entries: tuple[Entries, ...]
    changed: dict[ChunkPlace, bytes]


def directory_suffix(collection: int) -> bytes:
    """The suffix of a key under which the directory of a collection is stored, by its index."""
    return _TAG + bytes([collection]) + b"d"


def chunk_suffix(collection: int, chunk: int) -> bytes:
    """The suffix of a key under which a chunk of a collection is stored."""
    return _TAG + bytes([collection]) + b"c" + chunk.to_bytes(8, "big", signed=True)


def chunks_named(layout: CollectionLayout, collection: int, directory: bytes) -> list[bytes]:
    """The suffixes of the chunks that a ``directory`` of a collection names.

    Raises:
        DamagedState: it is none of this layout.
    """
    return [chunk_suffix(collection, chunk) for chunk in _rows_of(layout, directory)[:, _ID].tolist()]


def is_cut(positions: Words) -> npt.NDArray[np.bool_]:
    """Whether a chunk begins with the entry at each position: splitmix64, one in :data:`EACH`."""
    add, first, second = (np.uint64(each) for each in _MIX)
    with np.errstate(over="ignore"):
        mixed = positions.astype(np.uint64) + add
        mixed = (mixed ^ (mixed >> np.uint64(30))) * first
        mixed = (mixed ^ (mixed >> np.uint64(27))) * second
    cut: npt.NDArray[np.bool_] = ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(EACH - 1)) == 0
    return cut


def seal(
    layout: CollectionLayout,
    before: States,
    entries: Sequence[Entries],
    floors: Words,
    partition: int,
    read: ReadChunks,
) -> _Sealed:
    """Move what does not belong into heads to chunks.

    Args:
        before: the heads as they were, one per key of the batch.
        entries: by collection, the heads with the new entries, by key in total order.
        floors: of each key, the earliest time that may still be asked for.
        partition: the source that all is of.
        read: reads what is stored.

    Raises:
        DamagedState: a chunk is missing that cannot have left, or damaged.
    """
    kept, changed = list(entries), dict[ChunkPlace, bytes]()
    for index in layout.chunked:
        sealer = _Sealer(layout, index, partition, read)
        kept[index] = sealer.seal(before.entries[index], entries[index], floors)
        changed |= sealer.changed
    return _Sealed(tuple(kept), changed)


@dataclass(slots=True)
class _Touched:
    """A key of which more than the head changes: where its rows are, late ones first, and its directory."""

    key: int
    start: int
    late_end: int
    end: int
    stored: Words
    directory: Words


class _Sealer:
    """Seals one collection."""

    def __init__(self, layout: CollectionLayout, index: int, partition: int, read: ReadChunks) -> None:
        self._layout, self._index, self._partition, self._read = layout, index, partition, read
        self._collection = layout.collections[index]
        self.changed: dict[ChunkPlace, bytes] = {}
        #: Chunks that are to be written, by place.
        self._made: dict[ChunkPlace, Entries] = {}

    def seal(self, before: Entries, after: Entries, floors: Words) -> Entries:
        """The entries that stay in the heads."""
        touched = self._touched(before, after, len(floors))
        if not touched:
            return after
        stay = np.ones(len(after.owners), dtype=np.bool_)
        late: list[tuple[_Touched, Entries]] = []
        for one in touched:
            late += self._cut_head(one, after, stay)
        for (one, rows), held in zip(late, self._held(late), strict=True):
            self._merge(one, rows, held)
        ends = floors - self._collection.end_us
        lows = lowest_kept(self._collection, floors)
        for one in touched:
            self._drop(one, int(ends[one.key]), int(lows[one.key]))
            if not np.array_equal(one.directory, one.stored):
                self.changed[one.key, directory_suffix(self._index)] = _directory(self._layout, one.directory)
        self._encode()
        return after.take(np.flatnonzero(stay))

    def _touched(self, before: Entries, after: Entries, keys: int) -> list[_Touched]:
        """The keys with entries before their head, or behind a cut in it."""
        times, positions = np.full(keys, INT64_MAX), np.full(keys, INT64_MAX)
        mine, first = np.unique(before.owners, return_index=True)
        times[mine], positions[mine] = before.words[first, 0], before.words[first, 1]
        owners, at, place = after.owners, after.words[:, 0], after.words[:, 1]
        late = (at < times[owners]) | ((at == times[owners]) & (place < positions[owners]))
        starts = np.searchsorted(owners, np.arange(keys + 1))
        inside = is_cut(place) & (np.arange(len(owners)) > starts[owners])
        found = np.unique(owners[late | inside]).tolist()
        if not found:
            return []
        stored = self._read([(key, directory_suffix(self._index)) for key in found])
        lates = np.bincount(owners[late], minlength=keys)
        made = []
        for key, blob in zip(found, stored, strict=True):
            start, end = int(starts[key]), int(starts[key + 1])
            directory = _rows_of(self._layout, blob or b"")
            late_end = start + int(lates[key]) if len(directory) else start
            made.append(_Touched(key, start, late_end, end, directory, directory))
        return made

    def _cut_head(self, one: _Touched, after: Entries, stay: npt.NDArray[np.bool_]) -> list[tuple[_Touched, Entries]]:
        """Seal what is before the last cut of a head; the late rows of each older chunk, or of one that is new."""
        empty = one.late_end == one.end
        if len(one.directory) and (empty or not is_cut(after.words[one.late_end : one.late_end + 1, 1])[0]):
            # The head begins with a cut while there are chunks: that entry has left, and so may all that is older.
            self._remove(one, np.ones(len(one.directory), dtype=np.bool_))
            one.late_end = one.start
        pieces = _pieces(after, np.arange(one.late_end, one.end), _LEADING)
        for chunk, rows in pieces[:-1]:
            self._put(one, chunk, after.take(rows))
            stay[rows] = False
        rows = np.arange(one.start, one.late_end)
        stay[rows] = False
        return [(one, after.take(rows[mine])) for mine in _by_chunk(one.directory, after.words[rows])]

    def _held(self, late: Sequence[tuple[_Touched, Entries]]) -> list[tuple[int, Entries]]:
        """For late rows of one chunk each, which one that is, and what it holds."""
        chunks = [_chunk_of(one.directory, rows.words[0]) for one, rows in late]
        places = [(one.key, chunk_suffix(self._index, chunk)) for (one, _), chunk in zip(late, chunks, strict=True)]
        if not places:
            return []
        blobs = list(self._read(places))
        for (one, _), chunk, blob in zip(late, chunks, blobs, strict=True):
            named = chunk in one.directory[:, _ID].tolist()
            if named and blob is None and self._layout.view.retention_us is None:
                raise DamagedState(
                    f"view {self._layout.view.name}: a chunk of a list is missing; rebuild the state with "
                    "`dovetail bootstrap`"
                )
        found = decode_states(self._layout, blobs).entries[self._index]
        starts = np.searchsorted(found.owners, np.arange(len(late) + 1))
        return [
            (chunk, found.take(np.arange(starts[number], starts[number + 1]))) for number, chunk in enumerate(chunks)
        ]

    def _merge(self, one: _Touched, rows: Entries, held: tuple[int, Entries]) -> None:
        chunk, older = held
        both = Entries.concat([older, rows])
        both = both.take(np.lexsort((both.words[:, 1], both.words[:, 0])))
        pieces = _pieces(both, np.arange(len(both.owners)), chunk)
        if pieces[0][0] != chunk:  # a cut came before all that was before the first
            self._remove(one, one.directory[:, _ID] == chunk)
        for piece, mine in pieces:
            self._put(one, piece, both.take(mine))

    def _put(self, one: _Touched, chunk: int, entries: Entries) -> None:
        """Write a chunk, and name it in its directory."""
        self._made[one.key, chunk_suffix(self._index, chunk)] = entries
        first = INT64_MIN if chunk == _LEADING else entries.words[0, 0]
        row = np.array([[chunk, first, len(entries.owners), entries.words[-1, 0]]], dtype=np.int64)
        rows = np.concatenate([one.directory[one.directory[:, _ID] != chunk], row])
        one.directory = rows[np.lexsort((rows[:, _ID], rows[:, _TIME]))]

    def _drop(self, one: _Touched, end: int, low: int) -> None:
        """Let chunks leave that nobody can ask for any more."""
        counts = np.where(one.directory[:, _LAST] <= end, one.directory[:, _COUNT], 0)
        later = counts[::-1].cumsum()[::-1] - counts
        self._remove(one, (later >= self._collection.k) | (one.directory[:, _LAST] < low))

    def _remove(self, one: _Touched, gone: npt.NDArray[np.bool_]) -> None:
        """Take chunks out of the directory, and from where they are stored."""
        for chunk in one.directory[gone, _ID].tolist():
            place = (one.key, chunk_suffix(self._index, chunk))
            self._made.pop(place, None)
            self.changed[place] = b""
        one.directory = one.directory[~gone]

    def _encode(self) -> None:
        """The chunks that were made, as states."""
        if not self._made:
            return
        number, layout = len(self._made), self._layout
        entries = [_none(layout, index) for index in range(len(layout.collections))]
        parts = list(self._made.values())
        whole = Entries.concat(parts)
        owners = np.repeat(np.arange(number), [len(part.owners) for part in parts])
        entries[self._index] = Entries(owners, whole.words, whole.text)
        nobody = np.full(number, INT64_MIN)
        states = States(nobody, np.full(number, self._partition), [b""] * number, tuple(entries))
        self.changed |= dict(zip(self._made, encode_states(layout, states, number), strict=True))


def _none(layout: CollectionLayout, index: int) -> Entries:
    """No entries of a collection."""
    collection = layout.collections[index]
    kept_as = layout.text_type(collection)
    nothing = np.empty(0, dtype=np.int64)
    text = None if kept_as is None else pa.array([], kept_as)
    return Entries(nothing, nothing.reshape(0, collection.columns), text)


def _pieces(entries: Entries, rows: Words, first: int) -> list[tuple[int, Words]]:
    """``rows`` of entries, cut; each piece by the chunk it is, the one before the first cut being ``first``."""
    positions = entries.words[rows, 1]
    cuts = np.flatnonzero(is_cut(positions))
    begins_before = not len(cuts) or cuts[0] > 0
    edges = [*([0] if begins_before else []), *cuts.tolist(), len(rows)]
    names = [*([first] if begins_before else []), *positions[cuts].tolist()]
    return [(name, rows[a:b]) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)]


def _places(directory: Words, words: Words) -> Words:
    """For each entry, ascending, the index of the last chunk of ``directory`` that begins at or before it, or -1."""
    marks = np.concatenate([directory[:, _TIME], words[:, 0]])
    ties = np.concatenate([directory[:, _ID], words[:, 1]])
    order = np.lexsort((ties, marks))
    begun = np.cumsum(order < len(directory)) - 1
    return np.asarray(begun[np.argsort(order)][len(directory) :])


def _by_chunk(directory: Words, words: Words) -> Iterable[Words]:
    """The indices of ``words``, ascending entries, chunk by chunk."""
    if not len(words):
        return []
    places = _places(directory, words)
    return np.split(np.arange(len(words)), np.flatnonzero(places[1:] != places[:-1]) + 1)


def _chunk_of(directory: Words, words: Words) -> int:
    place = int(_places(directory, words.reshape(1, -1))[0])
    return _LEADING if place < 0 else int(directory[place, _ID])


def _directory(layout: CollectionLayout, rows: Words) -> bytes:
    if not len(rows):
        return b""
    header = np.array([_MAGIC, layout.fingerprint], dtype=np.int64)
    return header.tobytes() + np.ascontiguousarray(rows).tobytes()


def _rows_of(layout: CollectionLayout, blob: bytes) -> Words:
    """A directory as ``[chunks, (id, time of the first entry, entries, time of the last)]``, ascending."""
    if not blob:
        return np.empty((0, 4), dtype=np.int64)
    found = np.frombuffer(blob, dtype=np.int64) if len(blob) % 8 == 0 else np.zeros(2, dtype=np.int64)
    if len(found) < 2 or found[0] != _MAGIC or found[1] != layout.fingerprint or (len(found) - 2) % 4:
        raise DamagedState(
            f"view {layout.view.name}: the directory of a list is damaged or of another definition; rebuild the state "
            "with `dovetail bootstrap`"
        )
    return found[2:].reshape(-1, 4).copy()
