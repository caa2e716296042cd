"""The splitter cuts the encoded examples of a mini-batch into one part per shard, and a header for the reducer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dovetail.platform.compiling import compiled
from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Bool, Float32, Int32, Int64, UInt8, UInt32
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.batch_messages import NO_SHARD, BatchHeader, BatchPart
from dovetail.trainer.sharded.ring import Ring

__all__ = ["Split", "Splitter"]

_NONE = np.empty(0, np.uint32)


class Split(NamedTuple):
    """A batch as it leaves the splitter: one part per shard, by number, and the header."""

    header: BatchHeader
    parts: list[BatchPart]


class Splitter:
    """Numbers batches, from ``number`` + 1 on, and cuts them by ``ring``.

    Its state is the number of the last batch: a splitter that is given the same batches again makes the same messages.
    """

    def __init__(self, ring: Ring, number: int = 0) -> None:
        self.ring = ring
        #: The number of the last batch.
        self.number = number
        self._forgotten = _NONE

    def forget(self, slots: UInt32) -> None:
        """Have ``slots`` forgotten before the next batch is predicted."""
        self._forgotten = np.concatenate((self._forgotten, slots))

    def split(self, encoded: Encoded, labels: Float32, weights: Float32, version: int = 0) -> Split:
        """The messages of the next batch; ``version`` is that of the model after it, if any.

        One without examples is there for its version alone.

        :raises ModelError: shapes or dtypes do not fit, or a slot is none of the ring's.
        """
        slots, values = encoded
        shape = (len(labels), *slots.shape[1:2])
        if (
            (len(labels) == 0 and not version)
            or {slots.shape, values.shape} != {shape}
            or weights.shape != labels.shape
        ):
            raise ModelError(
                f"cannot split: need one or more examples, as slots and values of one shape and as many labels and "
                f"weights; got {slots.shape}, {values.shape}, {labels.shape} and {weights.shape}"
            )
        if int(slots.max(initial=0)) >> self.ring.bits:
            raise ModelError(
                f"cannot split: slot {int(slots.max())} is outside the {1 << self.ring.bits} of the ring; encoder and "
                "ring differ in bits"
            )
        self.number += 1
        ring, n = self.ring, len(labels)
        owners = np.empty(slots.shape, np.uint8)
        lengths = np.zeros((ring.shards, n + 1), np.int32)
        odd = np.zeros(slots.shape[1], np.bool_)
        _place(slots, values, ring.owners, ring.shift, owners, lengths, odd)
        offsets = np.cumsum(lengths, axis=1, dtype=np.int32)
        ends = np.cumsum(offsets[:, -1].astype(np.int64))
        starts = ends - offsets[:, -1]
        local, own = np.empty(int(ends[-1]), np.uint32), np.empty(int(ends[-1]), np.float32)
        ones = np.ones(ring.shards, np.bool_)
        _fill(slots, values, owners, ring.bases, ring.shift, starts.copy(), local, own, ones)
        columns = np.flatnonzero(odd).astype(np.int32)
        header = BatchHeader(self.number, labels, weights, owners, columns, values[:, columns], ring.shards)
        keepers, forgotten = ring.locals_of(self._forgotten)
        self._forgotten = _NONE
        parts = [
            BatchPart(
                self.number, shard, offsets[shard], local[start:end], None if ones[shard] else own[start:end],
                forgotten[keepers == shard], version,
            )
            for shard, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        ]  # fmt: skip
        return Split(header, parts)


@compiled
def _place(
    slots: UInt32, values: Float32, by_cell: UInt8, shift: int, owners: UInt8, lengths: Int32, odd: Bool
) -> None:
    n, k = slots.shape
    for i in range(n):
        for j in range(k):
            value = values[i, j]
            if value == 0:
                owners[i, j] = NO_SHARD
                continue
            owner = by_cell[slots[i, j] >> shift]
            owners[i, j] = owner
            lengths[owner, i + 1] += 1
            if value != 1:
                odd[j] = True


@compiled
def _fill(
    slots: UInt32,
    values: Float32,
    owners: UInt8,
    bases: UInt32,
    shift: int,
    cursors: Int64,
    local: UInt32,
    own: Float32,
    ones: Bool,
) -> None:
    n, k = slots.shape
    inside = np.uint32((1 << shift) - 1)
    for i in range(n):
        for j in range(k):
            owner = owners[i, j]
            if owner == NO_SHARD:
                continue
            s, at = slots[i, j], cursors[owner]
            local[at] = bases[s >> shift] + (s & inside)
            own[at] = values[i, j]
            cursors[owner] = at + 1
            if values[i, j] != 1:
                ones[owner] = False
