"""The reducer as a stage: it predicts, evaluates, sends the errors to all shards, and judges versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dovetail.platform.clock import Clock
from dovetail.platform.errors import ModelError
from dovetail.platform.stage import Outgoing, Poll, Work
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.evaluating import Evaluator
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.container import Container
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.settings import Checkpointing
from dovetail.trainer.sharded.batch_messages import BatchHeader, PartWeights
from dovetail.trainer.sharded.collector import Collector
from dovetail.trainer.sharded.dealt_rows import BatchPredictions
from dovetail.trainer.sharded.evaluated_rows import BatchRows, Verdict
from dovetail.trainer.sharded.mailbox import Identity, Mailbox, MailboxReader, posted
from dovetail.trainer.sharded.reducer import Reduced, Reducer
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import CREDIT_EVERY_US, Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["ReduceStage", "ReduceState"]

#: Called with rows trained on and metrics by scope, as ``TrainerListeners.on_evaluated`` is.
Evaluated = Callable[[int, Sequence[tuple[str, Metrics]]], None]


class ReduceState(MailboxReader):
    """The evaluation of the batches up to the one numbered ``reducer.reduced``."""

    def __init__(
        self,
        evaluator: Evaluator,
        reducer: Reducer | Collector,
        sharding: Sharding,
        gate: Gate,
        on_evaluated: Evaluated | None,
        next_offset: int = 0,
    ) -> None:
        self.evaluator = evaluator
        self.reducer = reducer
        self._sharding = sharding
        self._gate = gate
        self._on_evaluated = on_evaluated
        self._mailbox = Mailbox(next_offset, self._is_done)
        self._rows: dict[int, BatchRows] = {}
        self._labels: dict[int, Float32] = {}

    def take(self, poll: Poll) -> Done:
        """Predict every batch that is complete.

        :raises ModelError: an example was refused, or a message is none of the reducer's.
        """
        done, before = Done(), self.reducer.reduced
        for message in self._mailbox.take(poll):
            if isinstance(message, BatchRows):
                self._rows.setdefault(message.number, message)
                continue
            if isinstance(message, BatchPredictions) and isinstance(self.reducer, Collector):
                for made in self.reducer.take(message):
                    self._judge(made.number, made.predictions, made.labels, done)
            elif isinstance(message, BatchHeader | PartWeights) and isinstance(self.reducer, Reducer):
                if isinstance(message, BatchHeader):
                    self._labels.setdefault(message.number, message.labels)
                for reduced in self.reducer.take(message):
                    done.outgoing += self._answered(reduced)
                    number = reduced.errors.number
                    self._judge(number, reduced.predictions, self._labels.pop(number), done)
            else:
                raise ModelError(f"the reducer was sent a {type(message).__name__}")
        if self.reducer.reduced > before:
            done.outgoing.append(self.credit())
        return done

    def credit(self) -> Outgoing:
        """The number of the last batch predicted, to the splitter."""
        return Outgoing(self._sharding.topics.credits, b"%d" % self.reducer.reduced, partition=0)

    def _answered(self, reduced: Reduced) -> list[Outgoing]:
        """The errors of a batch, to every shard."""
        topic, limit = self._sharding.topics.parts, self._sharding.max_message_bytes
        return [out for shard in range(self._sharding.shards) for out in posted(topic, shard, reduced.errors, limit)]

    def _judge(self, number: int, predictions: Float32, labels: Float32, done: Done) -> None:
        topics, limit, rows = self._sharding.topics, self._sharding.max_message_bytes, self._rows.pop(number)
        if len(labels):
            self.evaluator.add(rows.table, predictions, labels, rows.weights)
        done.samples += len(labels)
        if rows.version:
            metrics, trained = self.evaluator.metrics(), self.evaluator.evaluation.samples
            reasons = tuple(self._gate.reasons(dict(metrics)["recent"]))
            done.outgoing += posted(topics.versions, 0, Verdict(rows.version, trained, rows.moments, reasons), limit)
            if self._on_evaluated is not None:
                done.commits.append(partial(self._on_evaluated, trained, metrics))

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        return {"reduced": self.reducer.reduced}, self.evaluator.state()

    def _is_done(self, identity: Identity) -> bool:
        return identity.number <= self.reducer.reduced


class ReduceStage(KeptStage[ReduceState]):
    """Predicts in the order of batches, from one partition, and evaluates as one process does.

    By samples the workers predict: then it has their predictions in the order of batches.
    """

    def __init__(
        self,
        recipe: ShardedRecipe,
        sharding: Sharding,
        gate: Gate,
        checkpoints: Checkpointing,
        *,
        on_evaluated: Evaluated | None = None,
        clock: Clock | None = None,
    ) -> None:
        evaluator = recipe.evaluator()
        loss = recipe.recipe.encoder.loss
        configuration = {**evaluator.describe(), "loss": loss, **sharding.placement.describe()}
        super().__init__("reducer", sharding.topics.margins, checkpoints, configuration, clock)
        self._recipe = recipe
        self._given = (sharding, gate, on_evaluated)
        self._said_us: int | None = None

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        """A checkpoint if one is due; and the credit once more, first of all and now and then, however old the last is.

        So a splitter that comes back does not wait for what the broker has removed.
        """
        async for work in super().settle(topic, partition, stopping=stopping):
            yield work
        now = self._clock.now_us()
        if not stopping and (self._said_us is None or not 0 <= now - self._said_us < CREDIT_EVERY_US):
            self._said_us = now
            yield Work(outgoing=[(await self.here(partition)).credit()])

    def stored_evaluation(self) -> Evaluation:
        """The evaluation in the last checkpoint; an empty one when there is none.

        :raises ModelError: it is corrupt.
        """
        return self.stored(0).evaluator.evaluation

    def partitions(self) -> Collection[int]:
        return (0,)

    def folder(self, partition: int) -> Path:
        return self._checkpoints.folder / "reducer"

    def fresh(self, partition: int) -> ReduceState:
        return ReduceState(self._recipe.evaluator(), self._reducer(0), *self._given)

    def loaded(self, partition: int, stored: Container) -> ReduceState:
        evaluator = self._recipe.evaluator().resumed(stored.arrays)
        reducer = self._reducer(stored.header["state"]["reduced"])
        return ReduceState(evaluator, reducer, *self._given, stored.header["position"])

    def _reducer(self, reduced: int) -> Reducer | Collector:
        sharding, *_ = self._given
        return Collector(reduced) if sharding.workers else Reducer(self._recipe.recipe.encoder.loss_code, reduced)
