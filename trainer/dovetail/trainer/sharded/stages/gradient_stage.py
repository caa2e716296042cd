"""The workers of a model by samples as a stage: each partition is the mailbox of one, which computes gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.errors import ModelError
from dovetail.platform.stage import Outgoing, Poll
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.container import Container
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.settings import Checkpointing
from dovetail.trainer.sharded.batch_messages import BatchMessage, PartWeights
from dovetail.trainer.sharded.dealt_rows import BatchPredictions, BatchSamples
from dovetail.trainer.sharded.evaluated_rows import BatchRows
from dovetail.trainer.sharded.mailbox import Identity, Mailbox, MailboxReader, posted
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.sample_worker import Computed, SampleWorker
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding, worker_folder
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["GradientStage", "GradientState"]

_NO_NUMBERS = np.empty(0, np.float32)


class _Examples(NamedTuple):
    """The rows of a batch, encoded; with what their evaluation reads."""

    encoded: Encoded
    labels: Float32
    learnt: Float32
    rows: BatchRows


class GradientState(MailboxReader):
    """A worker and its mailbox: its batches are done up to one of them, and all others are begun from what is read.

    Nothing else is kept, for what it sends of a batch is a function of the batch and of the shards' answers, and those
    stand behind it in the mailbox, and are the same when they come again.
    """

    def __init__(self, recipe: ShardedRecipe, worker: SampleWorker, sharding: Sharding, next_offset: int = 0) -> None:
        self.worker = worker
        self._samples = recipe.samples
        self._preparation = recipe.preparation()
        self._columns = sorted(recipe.evaluator().columns)
        self._sharding = sharding
        self._mailbox = Mailbox(next_offset, self._is_done)
        self._begun: dict[int, _Examples] = {}

    def take(self, poll: Poll) -> Done:
        """Ask for the weights of batches that have come, and send the gradients of those whose weights are complete.

        :raises WireError: rows lack a column, or have one of a wrong type.
        :raises ModelError: an example was refused, or a message is none of a worker's.
        """
        done = Done()
        for message in self._mailbox.take(poll):
            if isinstance(message, BatchSamples):
                if message.number not in self._begun:
                    done.outgoing += self._ask(message)
            elif isinstance(message, PartWeights):
                for computed in self.worker.take(message):
                    done.outgoing += self._send(computed)
                    # A checkpoint is as often due as of those who have the samples of all workers.
                    done.samples += len(computed.predictions) * self.worker.workers
            else:
                raise ModelError(f"worker {self.worker.number} was sent a {type(message).__name__}")
        return done

    def _ask(self, samples: BatchSamples) -> list[Outgoing]:
        batch = self._examples(samples)
        self._begun[samples.number] = batch
        parts = self.worker.begin(samples.number, batch.encoded, batch.labels, batch.learnt, samples.version)
        return [outgoing for part in parts for outgoing in self._posted(part)]

    def _examples(self, samples: BatchSamples) -> _Examples:
        number, version, moments = samples.number, samples.version, samples.moments.copy()
        if not samples.content:
            nothing = Encoded(np.empty((0, 1), np.uint32), np.empty((0, 1), np.float32))
            rows = BatchRows(number, _NO_NUMBERS, pa.table({}), version, moments)
            return _Examples(nothing, _NO_NUMBERS, _NO_NUMBERS, rows)
        self._preparation.moments[...] = moments
        (prepared,) = self._preparation.prepare(self._rows(samples), whole=True)
        columns = [name for name in self._columns if name in prepared.table.column_names]
        after = self._preparation.moments.copy()
        rows = BatchRows(number, prepared.weights, prepared.table.select(columns), version, after)
        return _Examples(prepared.encoded, prepared.labels, prepared.learnt, rows)

    def _rows(self, samples: BatchSamples) -> pa.Table:
        topic, at = self._sharding.topics.batches, np.zeros(1, np.int64)
        rows = self._samples.decode(Poll(topic, 0, at, at, [None], [samples.content], [()]))
        return rows if samples.chosen is None else rows.take(pa.array(samples.chosen))

    def _send(self, computed: Computed) -> list[Outgoing]:
        batch = self._begun.pop(computed.number)
        topics, limit = self._sharding.topics, self._sharding.max_message_bytes
        outgoing = [
            message
            for shard, errors in enumerate(computed.errors)
            for message in posted(topics.parts, shard, errors, limit)
        ]
        predictions = BatchPredictions(computed.number, computed.predictions, batch.labels)
        return [*outgoing, *self._posted(batch.rows), *self._posted(predictions)]

    def _posted(self, message: BatchMessage) -> list[Outgoing]:
        return list(posted(*self._sharding.box_of(message), message, self._sharding.max_message_bytes))

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        return {"done": self.worker.done}, {}

    def _is_done(self, identity: Identity) -> bool:
        return identity.number <= self.worker.done


class GradientStage(KeptStage[GradientState]):
    """The workers that this process has; one that goes to another process goes on there from its checkpoint."""

    def __init__(
        self, recipe: ShardedRecipe, sharding: Sharding, checkpoints: Checkpointing, clock: Clock | None = None
    ) -> None:
        configuration = {**recipe.preparation().describe(), **sharding.placement.describe()}
        super().__init__("gradients", sharding.topics.dealt, checkpoints, configuration, clock)
        self._recipe = recipe
        self._sharding = sharding
        self._ring = Ring(sharding.shards, recipe.recipe.encoder.bits)

    def partitions(self) -> Collection[int]:
        return range(self._sharding.workers)

    def folder(self, partition: int) -> Path:
        return worker_folder(self._checkpoints.folder, partition, self._sharding.workers)

    def fresh(self, partition: int) -> GradientState:
        return self._state(partition)

    def loaded(self, partition: int, stored: Container) -> GradientState:
        return self._state(partition, stored.header["state"]["done"], stored.header["position"])

    def _state(self, partition: int, done: int = 0, next_offset: int = 0) -> GradientState:
        loss = self._recipe.recipe.encoder.loss_code
        worker = SampleWorker(self._ring, partition, self._sharding.workers, loss=loss, done=done)
        return GradientState(self._recipe, worker, self._sharding, next_offset)
