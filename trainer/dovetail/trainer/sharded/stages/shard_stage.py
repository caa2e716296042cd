"""The shards as a stage: each partition is the mailbox of one, which answers weights and applies errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.platform.clock import Clock
from dovetail.platform.errors import ModelError
from dovetail.platform.stage import Poll
from dovetail.trainer.arithmetic import UInt8
from dovetail.trainer.models.container import Container
from dovetail.trainer.models.touched import all_records, touched_records
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import Checkpointing
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchPart, decode, encode
from dovetail.trainer.sharded.mailbox import Identity, Mailbox, MailboxReader, posted
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.shard import Pending, Shard, ShardState
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding, shard_folder

__all__ = ["KeptShard", "ShardStage"]


class KeptShard(MailboxReader):
    """A shard and its mailbox: after the same messages it has sent the same answers, however stale they may be."""

    def __init__(self, shard: Shard, sharding: Sharding, next_offset: int = 0) -> None:
        self.shard = shard
        self._sharding = sharding
        self._mailbox = Mailbox(next_offset, self._is_done)

    def take(self, poll: Poll) -> Done:
        """Answer and apply all that can be.

        :raises ModelError: a message does not fit the shard.
        """
        done, limit = Done(), self._sharding.max_message_bytes
        for message in self._mailbox.take(poll):
            if not isinstance(message, BatchPart | BatchErrors):
                raise ModelError(f"shard {self.shard.number} was sent a {type(message).__name__}")
            done.samples += len(message.errors) if isinstance(message, BatchErrors) else 0
            for answer in self.shard.take(message):
                done.outgoing += posted(*self._sharding.box_of(answer), answer, limit)
        return done

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays: records, and the batches whose errors are still to come."""
        shard = self.shard
        pending = {pending.part.number: pending for pending in shard.pending}
        arrays: dict[str, Any] = touched_records(shard.records, shard.optimizer.blank())
        for number, (part, pulled) in pending.items():
            arrays |= {f"part_{number}": np.frombuffer(encode(part), np.uint8), f"pulled_{number}": pulled}
        return {"answered": shard.answered, "applied": shard.applied, "pending": sorted(pending)}, arrays

    def _is_done(self, identity: Identity) -> bool:
        return identity.number <= (self.shard.applied if identity.kind == "BatchErrors" else self.shard.answered)


class ShardStage(KeptStage[KeptShard]):
    """The shards that this worker has; one that goes to another worker goes on there from its checkpoint."""

    def __init__(
        self,
        encoder: Encoder,
        optimizer: Optimizer,
        sharding: Sharding,
        checkpoints: Checkpointing,
        clock: Clock | None = None,
    ) -> None:
        configuration = {
            "optimizer": optimizer.describe(), "fingerprint": encoder.fingerprint, "bits": encoder.bits,
            **sharding.placement.describe(),
        }  # fmt: skip
        super().__init__("shards", sharding.topics.parts, checkpoints, configuration, clock)
        self._optimizer = optimizer
        self._sharding = sharding
        self._ring = Ring(sharding.shards, encoder.bits)

    def partitions(self) -> Collection[int]:
        return range(self._sharding.shards)

    def folder(self, partition: int) -> Path:
        return shard_folder(self._checkpoints.folder, partition, self._sharding.shards)

    def fresh(self, partition: int) -> KeptShard:
        return KeptShard(Shard(self._ring, partition, self._optimizer, self._sharding.staleness), self._sharding)

    def loaded(self, partition: int, stored: Container) -> KeptShard:
        values, arrays = stored.header["state"], stored.arrays
        pending = tuple(_pending(arrays, number) for number in values["pending"])
        records = all_records(self._ring.size(partition), arrays)
        state = ShardState(records, values["answered"], values["applied"], pending)
        shard = Shard.resumed(self._ring, partition, self._optimizer, self._sharding.staleness, state)
        return KeptShard(shard, self._sharding, stored.header["position"])


def _pending(arrays: Mapping[str, Any], number: int) -> Pending:
    content: UInt8 = arrays[f"part_{number}"]
    part = decode(content.tobytes())
    if not isinstance(part, BatchPart):
        raise ModelError(f"the part of batch {number} in a checkpoint is a {type(part).__name__}")
    return Pending(part, arrays[f"pulled_{number}"])
