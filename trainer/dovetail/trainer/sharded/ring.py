"""Consistent hashing of slots with virtual nodes: which shard keeps a slot, and where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import UInt8, UInt32
from dovetail.trainer.samples.hashing import hash_pairs

__all__ = ["MAX_SHARDS", "Move", "Ring", "moves"]

#: A shard is a byte in messages, and one value of the byte means that there is none.
MAX_SHARDS = 255
#: Virtual nodes per shard: shares then differ by about 1/√256 of a share.
_VIRTUAL_NODES = 256
#: The slots are at most 2**14 cells, each in one place: tables of so many entries stay in a cache.
_CELL_BITS = 14


class Move(NamedTuple):
    """Cells, ascending, that go from one shard to another when a ring gives way to another."""

    source: int
    target: int
    cells: npt.NDArray[np.int64]


class Ring:
    """Places 2**bits slots on ``shards`` shards, numbered from 0.

    Consecutive slots form a *cell*, of which there are 2**14 or, with fewer bits, one per slot; slots are hashes, so a
    cell is a random sample of values. Cells stand evenly on a ring of 2**64 places, each shard on 256 places of it that
    are a hash of its number, and a cell belongs to the first shard at or after it. So the ring of one shard more takes
    cells from all others and moves none between them. The same numbers give the same ring on every machine, always.

    A shard numbers its slots from 0, cell after cell in ascending order: its *local* slots.

    :raises ConfigError: there are no shards, more than 255, or more than there are slots.
    """

    def __init__(self, shards: int, bits: int) -> None:
        if not 1 <= shards <= min(MAX_SHARDS, 1 << bits):
            raise ConfigError(
                f"a model of 2^{bits} slots can be on 1 to {min(MAX_SHARDS, 1 << bits)} shards, not on {shards}"
            )
        self.shards = shards
        self.bits = bits
        cell_bits = min(bits, _CELL_BITS)
        #: Slots per cell, as a power of two.
        self.shift = bits - cell_bits
        numbers = np.repeat(np.arange(shards, dtype=np.uint64), _VIRTUAL_NODES)
        nodes = np.tile(np.arange(_VIRTUAL_NODES, dtype=np.uint64), shards)
        points = hash_pairs(numbers, nodes)
        order = np.lexsort((numbers, points))
        cells = np.arange(1 << cell_bits, dtype=np.uint64) << np.uint64(64 - cell_bits)
        after = np.searchsorted(points[order], cells, side="left") % len(points)
        #: The shard of each cell: uint8 [cells].
        self.owners: UInt8 = numbers[order][after].astype(np.uint8)
        rank = np.empty(1 << cell_bits, np.int64)
        for shard in range(shards):
            mine = self.cells_of(shard)
            rank[mine] = np.arange(len(mine))
        #: The local slot of the first slot of each cell: uint32 [cells].
        self.bases: UInt32 = (rank << self.shift).astype(np.uint32)

    @property
    def cell_size(self) -> int:
        """Slots per cell."""
        return 1 << self.shift

    def cells_of(self, shard: int) -> npt.NDArray[np.int64]:
        """The cells of a shard, ascending; none when chance gave it none, which happens with very few slots only."""
        return np.flatnonzero(self.owners == shard)

    def size(self, shard: int) -> int:
        """How many slots a shard keeps."""
        return len(self.cells_of(shard)) << self.shift

    def globals_of(self, shard: int, local: UInt32) -> UInt32:
        """The slots that are ``local`` on a shard: uint32 [n]."""
        cells = self.cells_of(shard).astype(np.uint32)
        inside = local & np.uint32(self.cell_size - 1)
        slots: UInt32 = (cells[local >> np.uint32(self.shift)] << np.uint32(self.shift)) | inside
        return slots

    def locals_of(self, slots: UInt32) -> tuple[UInt8, UInt32]:
        """The shard of each slot, uint8 [n], and its local slot there, uint32 [n]."""
        cells = slots >> np.uint32(self.shift)
        return self.owners[cells], self.bases[cells] + (slots & np.uint32(self.cell_size - 1))


def moves(before: Ring, after: Ring) -> list[Move]:
    """The cells that change their shard from one ring to another, by source and target.

    :raises ConfigError: the rings are of models of different size.
    """
    if before.bits != after.bits:
        raise ConfigError(f"a model of 2^{before.bits} slots cannot be placed as one of 2^{after.bits}; keep bits")
    gone = np.flatnonzero(before.owners != after.owners)
    pairs = before.owners[gone].astype(np.int64) * (MAX_SHARDS + 1) + after.owners[gone]
    return [
        Move(int(pair) // (MAX_SHARDS + 1), int(pair) % (MAX_SHARDS + 1), gone[pairs == pair])
        for pair in np.unique(pairs)
    ]
