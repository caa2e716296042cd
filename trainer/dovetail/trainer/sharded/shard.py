"""A shard keeps the records of its slots: it answers their weights, and applies the errors that come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.optimizers.optimizer import RECORD_WIDTH, WEIGHT, Optimizer
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchPart, ModelPiece, PartWeights
from dovetail.trainer.sharded.ring import Ring

__all__ = ["Pending", "Shard", "ShardState"]


class Pending(NamedTuple):
    """A part that was answered and whose errors are not applied yet, with the weights that were its answer."""

    part: BatchPart
    pulled: Float32


@dataclass(frozen=True, slots=True)
class ShardState:
    """All that a shard goes on from. Messages that it has not acted on are no part of it: they are read again.

    The next part to read is that of batch ``answered`` + 1, the next errors those of ``applied`` + 1.
    """

    #: float32 [slots of the shard, 4].
    records: Float32
    answered: int
    applied: int
    #: Batches ``applied`` + 1 … ``answered``, ascending.
    pending: tuple[Pending, ...]


class Shard:
    """The slots of shard ``number`` of ``ring``, trained by ``optimizer``.

    A batch is answered when all batches up to ``staleness`` before it are applied: 0 waits for every one, None for
    none. Both are done in the order of batches, whatever order messages come in; a message that has been acted on, or
    that is waiting, changes nothing when it comes again.

    Of one batch, each slot is updated once, with the sum of its gradients in the order of examples, exactly as
    :func:`~dovetail.trainer.modes.train_batch` does it. With ``staleness`` 0 the records are those of one process, bit
    for bit. An optimizer that compensates delays is told the weights that were answered.

    :raises ConfigError: ``staleness`` is negative, or the ring has no such shard.
    :raises ModelError: ``records`` are not as many as the shard has slots.
    """

    def __init__(
        self, ring: Ring, number: int, optimizer: Optimizer, staleness: int | None, records: Float32 | None = None
    ) -> None:
        if not 0 <= number < ring.shards:
            raise ConfigError(f"a ring of {ring.shards} shards has no shard {number}; they are numbered from 0")
        if staleness is not None and staleness < 0:
            raise ConfigError(f"staleness is a number of batches, 0 or more, or async for no bound; got {staleness}")
        self.ring = ring
        self.number = number
        self.optimizer = optimizer
        self.staleness = staleness
        size = ring.size(number)
        if records is None:
            records = np.empty((size, RECORD_WIDTH), np.float32)
            records[:] = optimizer.blank()
        if records.shape != (size, RECORD_WIDTH) or records.dtype != np.float32:
            raise ModelError(
                f"shard {number} of {ring.shards} keeps {size} records, got {records.dtype} {list(records.shape)}; "
                "take them by this ring"
            )
        self.records = records
        #: The last batch whose weights were answered, and the last whose errors were applied.
        self.answered = 0
        self.applied = 0
        self._pending: dict[int, Pending] = {}
        self._parts: dict[int, BatchPart] = {}
        self._errors: dict[int, BatchErrors] = {}

    @classmethod
    def resumed(cls, ring: Ring, number: int, optimizer: Optimizer, staleness: int | None, state: ShardState) -> Shard:
        """The shard that goes on from ``state``, whose records become its own."""
        shard = cls(ring, number, optimizer, staleness, state.records)
        shard.answered, shard.applied = state.answered, state.applied
        shard._pending = {pending.part.number: pending for pending in state.pending}
        return shard

    def state(self) -> ShardState:
        """The shard as it is; a copy."""
        return ShardState(self.records.copy(), self.answered, self.applied, self.pending)

    @property
    def pending(self) -> tuple[Pending, ...]:
        """Batches ``applied`` + 1 … ``answered``, ascending."""
        return tuple(self._pending[number] for number in sorted(self._pending))

    def take(self, message: BatchPart | BatchErrors) -> list[PartWeights | ModelPiece]:
        """Take one message in and do all that can be done now; returns what is to be sent, in order.

        :raises ModelError: the message is another shard's, or errors do not fit their part.
        """
        if isinstance(message, BatchPart):
            if message.shard != self.number:
                raise ModelError(f"shard {self.number} was sent the part of shard {message.shard}; partitions differ")
            if message.number > self.answered:
                self._parts.setdefault(message.number, message)
        elif message.number > self.applied:
            self._errors.setdefault(message.number, message)
        sent: list[PartWeights | ModelPiece] = []
        while self._apply(sent) or self._answer(sent):
            pass
        return sent

    def _answer(self, sent: list[PartWeights | ModelPiece]) -> bool:
        number = self.answered + 1
        if number not in self._parts:
            return False
        if self.staleness is not None and self.applied < number - 1 - self.staleness:
            return False
        part = self._parts.pop(number)
        if len(part.slots) and int(part.slots.max()) >= len(self.records):
            raise ModelError(
                f"batch {number} has slot {int(part.slots.max())} of shard {self.number}, which keeps "
                f"{len(self.records)}; splitter and shard have different rings"
            )
        if len(part.forgotten):
            self.records[part.forgotten] = self.optimizer.blank()
        pulled = self.records[part.slots, WEIGHT]
        self._pending[number] = Pending(part, pulled)
        self.answered = number
        sent.append(PartWeights(number, self.number, pulled, self.applied))
        return True

    def _apply(self, sent: list[PartWeights | ModelPiece]) -> bool:
        number = self.applied + 1
        if number not in self._errors or number not in self._pending:
            return False
        errors = self._errors.pop(number).errors
        part, pulled = self._pending.pop(number)
        lengths = np.ones(len(part.slots), np.int32) if part.offsets is None else np.diff(part.offsets)
        if len(lengths) != len(errors):
            rows = "slots" if part.offsets is None else "examples"
            raise ModelError(f"batch {number} has {len(lengths)} {rows} here, and {len(errors)} errors came back")
        if len(part.slots):
            gradients = errors if part.offsets is None else np.repeat(errors, lengths)
            if part.values is not None:
                gradients *= part.values
            self.optimizer.apply_stale(self.records, part.slots, gradients, pulled)
        self.applied = number
        if part.version:
            sent.append(self.piece(part.version))
        return True

    def piece(self, version: int) -> ModelPiece:
        """The weights that are not zero, as they are now, as a piece of ``version``."""
        column = self.records[:, WEIGHT]
        local = np.flatnonzero(column).astype(np.uint32)
        slots: UInt32 = self.ring.globals_of(self.number, local)
        return ModelPiece(version, self.number, slots, column[local])
