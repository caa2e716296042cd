"""The assembly of one model from the pieces of all shards, and of all records from theirs."""

from __future__ import annotations

import numpy as np

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.learner import Weights
from dovetail.trainer.optimizers.optimizer import RECORD_WIDTH
from dovetail.trainer.sharded.batch_messages import ModelPiece
from dovetail.trainer.sharded.ring import Move, Ring, moves

__all__ = ["Assembly", "gather_records", "place_again", "records_of"]


class Assembly:
    """Versions of a model on ``shards`` shards, each given out whole, once, and never before an older one.

    Pieces come in any order and again. Pieces of a version below one that was given out are dropped: whoever serves
    has something newer.
    """

    def __init__(self, shards: int, given: int = 0) -> None:
        self._shards = shards
        #: The newest version that was given out.
        self.given = given
        self._pieces: dict[int, dict[int, ModelPiece]] = {}

    def take(self, piece: ModelPiece) -> tuple[int, Weights] | None:
        """The version, by its number, that ``piece`` completes; None while it lacks others."""
        if piece.version <= self.given:
            return None
        pieces = self._pieces.setdefault(piece.version, {})
        pieces.setdefault(piece.shard, piece)
        if len(pieces) < self._shards:
            return None
        self.given = piece.version
        self._pieces = {version: held for version, held in self._pieces.items() if version > self.given}
        slots = np.concatenate([each.slots for each in pieces.values()])
        weights = np.concatenate([each.weights for each in pieces.values()])
        order = np.argsort(slots)
        return piece.version, Weights(slots[order], weights[order])


def records_of(ring: Ring, shard: int, records: Float32) -> Float32:
    """The records that a shard keeps of those of a whole model, float32 [2**bits, 4]; a copy."""
    by_cell = records.reshape(-1, ring.cell_size, RECORD_WIDTH)
    mine: Float32 = by_cell[ring.cells_of(shard)].reshape(-1, RECORD_WIDTH)
    return mine


def gather_records(ring: Ring, shard: int, own: Float32, records: Float32) -> None:
    """Write the records of a shard to their places among those of the whole model."""
    by_cell = records.reshape(-1, ring.cell_size, RECORD_WIDTH)
    by_cell[ring.cells_of(shard)] = own.reshape(-1, ring.cell_size, RECORD_WIDTH)


def place_again(before: Ring, after: Ring, records: list[Float32]) -> list[Float32]:
    """The records by shard of ``after``, given those by shard of ``before``; the cells that move are :func:`moves`'.

    No batch may be in between: every shard has applied the same ones.

    :raises ConfigError: as :func:`moves`.
    """
    size = after.cell_size
    placed = [np.empty((after.size(shard) // size, size, RECORD_WIDTH), np.float32) for shard in range(after.shards)]
    stay = [
        Move(shard, shard, np.flatnonzero((before.owners == shard) & (after.owners == shard)))
        for shard in range(min(before.shards, after.shards))
    ]
    for source, target, cells in [*moves(before, after), *stay]:
        old = records[source].reshape(-1, size, RECORD_WIDTH)
        placed[target][after.bases[cells] >> after.shift] = old[before.bases[cells] >> before.shift]
    return [own.reshape(-1, RECORD_WIDTH) for own in placed]
