"""The versions of a model on shards: pieces put together, and published or refused as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dovetail.platform.clock import Clock
from dovetail.platform.errors import ModelError
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll, Work
from dovetail.trainer.learner import Weights
from dovetail.trainer.models.container import Container
from dovetail.trainer.models.publish import Model
from dovetail.trainer.publisher import Publisher
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import Checkpointing, Publication
from dovetail.trainer.sharded.assembly import Assembly
from dovetail.trainer.sharded.batch_messages import ModelPiece
from dovetail.trainer.sharded.evaluated_rows import Verdict
from dovetail.trainer.sharded.mailbox import Identity, Mailbox, MailboxReader
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding

__all__ = ["VersionStage", "VersionState"]


class VersionState(MailboxReader):
    """Pieces and verdicts of the versions above ``given``, the last that was whole and judged."""

    def __init__(self, shards: int, given: int = 0, next_offset: int = 0) -> None:
        self.given = given
        self._mailbox = Mailbox(next_offset, self._is_done)
        self._assembly = Assembly(shards, given)
        self._weights: dict[int, Weights] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._ready: list[tuple[Verdict, Weights]] = []

    def take(self, poll: Poll) -> Done:
        """Take pieces and verdicts in; :meth:`ready` gives what they complete.

        :raises ModelError: a message is neither.
        """
        for message in self._mailbox.take(poll):
            if isinstance(message, Verdict):
                self._verdicts.setdefault(message.version, message)
            elif isinstance(message, ModelPiece):
                if (whole := self._assembly.take(message)) is not None:
                    self._weights[whole[0]] = whole[1]
            else:
                raise ModelError(f"a version was sent a {type(message).__name__}")
            for version in sorted(self._weights.keys() & self._verdicts.keys()):
                self._ready.append((self._verdicts.pop(version), self._weights.pop(version)))
                self.given = version
        return Done()

    def ready(self) -> list[tuple[Verdict, Weights]]:
        """The versions that are whole and judged, each once, in their order."""
        ready, self._ready = self._ready, []
        return ready

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        return {"given": self.given}, {}

    def _is_done(self, identity: Identity) -> bool:
        return identity.number <= self.given


class VersionStage(KeptStage[VersionState]):
    """Puts versions together, from one partition, and publishes those that their verdicts let pass."""

    def __init__(
        self,
        encoder: Encoder,
        sharding: Sharding,
        publication: Publication,
        checkpoints: Checkpointing,
        *,
        on_publish: Callable[[int], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        configuration = {"fingerprint": encoder.fingerprint, **sharding.placement.describe()}
        super().__init__("versions", sharding.topics.versions, checkpoints, configuration, clock)
        self._encoder = encoder
        self._sharding = sharding
        self._publisher = Publisher(publication)
        self._on_publish = on_publish

    def partitions(self) -> Collection[int]:
        return (0,)

    def folder(self, partition: int) -> Path:
        return self._checkpoints.folder / "versions"

    def fresh(self, partition: int) -> VersionState:
        self._publisher.restore()
        return VersionState(self._sharding.shards)

    def loaded(self, partition: int, stored: Container) -> VersionState:
        self._publisher.restore()
        return VersionState(self._sharding.shards, stored.header["state"]["given"], stored.header["position"])

    async def taken(self, state: VersionState, poll: Poll) -> AsyncIterator[Work]:
        done = await compute(state.take, poll)
        ready = state.ready()
        done.samples = self._checkpoints.every if ready else 0  # a version that is out is no more to be read again
        yield self.work(poll.partition, done)
        for verdict, weights in ready:
            if verdict.version > self._publisher.published:
                make = partial(self._model, verdict, weights)
                async for work in self._publisher.offer(verdict.version, make, verdict.reasons, lambda: None):
                    yield work
                if not verdict.reasons and self._on_publish is not None:
                    self._on_publish(verdict.version)

    def _model(self, verdict: Verdict, weights: Weights) -> Model:
        encoder = self._encoder
        return Model(
            encoder.fingerprint, encoder.bits, verdict.trained, weights.slots, weights.weights, verdict.moments,
            encoder.describe(),
        )  # fmt: skip
