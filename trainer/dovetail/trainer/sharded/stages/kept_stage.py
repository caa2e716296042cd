"""A stage that keeps a state per partition in files, with the position that the state includes."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import ModelError
from dovetail.platform.logs import Event
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.trainer.models.container import Container, pack
from dovetail.trainer.models.state_files import StateFiles, require_same
from dovetail.trainer.settings import Checkpointing
from dovetail.trainer.sharded.stages.shard_topics import Placement

__all__ = ["FORMAT", "Done", "KeptStage", "KeptState"]

_log = logging.getLogger(__name__)

#: Version of the file format; a file of another version is refused.
FORMAT = 1


@dataclass(slots=True)
class Done:
    """The outcome of messages: what is to be sent, then committed, and how many samples it was about."""

    outgoing: list[Outgoing] = field(default_factory=list)
    commits: list[Callable[[], None]] = field(default_factory=list)
    samples: int = 0


class KeptState(Protocol):
    """The state of one partition, a function of the messages before :attr:`next`."""

    @property
    def next(self) -> int:
        """The offset after the last message taken."""

    @property
    def position(self) -> int:
        """The offset to read on from, given this state: at most :attr:`next`."""

    def take(self, poll: Poll) -> Done:
        """Take messages in, those before :attr:`next` passed over."""

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """JSON-ready values and arrays that the state can be made of again; copies."""


S = TypeVar("S", bound=KeptState)


@dataclass(slots=True)
class _Kept(Generic[S]):
    state: S
    sequence: int
    stored: int
    told: int
    samples: int = 0
    # When the oldest message came that is not in a checkpoint; None while there is none.
    since_us: int | None = None


class KeptStage(Stage, Generic[S]):
    """Messages in, messages out, and a checkpoint of state and position now and then, by compare-and-set.

    A checkpoint is due after ``checkpoints.every`` samples or ``checkpoints.delay_us`` after a message that is in none.
    After a crash messages behind the last one are taken again, and what was sent because of them is sent again, the
    same; so long as no checkpoint is stored, nothing is acknowledged.
    """

    by_partition = True

    def __init__(
        self, name: str, topic: str, checkpoints: Checkpointing, configuration: Mapping[str, Any], clock: Clock | None
    ) -> None:
        self.name = name
        self.topic = topic
        self.topics: Sequence[str] = (topic,)
        self._checkpoints = checkpoints
        #: What its checkpoints are bound to.
        self.configuration = dict(configuration)
        self._clock = clock or SystemClock()
        self._files: dict[int, StateFiles] = {}
        self._kept: dict[int, _Kept[S]] = {}
        self._busy: dict[int, asyncio.Lock] = {}

    @abstractmethod
    def fresh(self, partition: int) -> S:
        """The state of a partition of which nothing was read."""

    @abstractmethod
    def loaded(self, partition: int, stored: Container) -> S:
        """The state whose :meth:`KeptState.image` is in ``stored``."""

    @abstractmethod
    def folder(self, partition: int) -> Path:
        """Where the checkpoints of a partition are."""

    def comparable(self, stored: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration that ``stored``, that of a checkpoint, must equal for the stage to go on from there."""
        return self.configuration

    @abstractmethod
    def partitions(self) -> Collection[int]:
        """The partitions of :attr:`topic`."""

    def resume(self, topic: str) -> Mapping[int, int]:
        """The next offset to read, by partition, as the last checkpoints have it.

        :raises ModelError: one is corrupt or was written under another configuration.
        """
        if topic != self.topic:
            return {}
        found = {}
        for partition in self.partitions():
            files = self._files_of(partition)
            sequence, kept = files.newest(), self._kept.get(partition)
            if kept is not None and kept.sequence != sequence:
                del self._kept[partition]  # another worker has gone on from here
            if sequence:
                found[partition] = int(self._checked(files, sequence, files.head(sequence))["position"])
        return found

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        if topic == self.topic:
            for partition in partitions:
                self._kept.pop(partition, None)

    def state(self, partition: int) -> S | None:
        """The state in memory of a partition, if it is here; look, do not touch."""
        kept = self._kept.get(partition)
        return None if kept is None else kept.state

    def stored(self, partition: int) -> S:
        """The state of a partition as in its last checkpoint.

        :raises ModelError: it is corrupt or was written under another configuration.
        """
        return self._load(partition).state

    def lay_down(self, partition: int, state: S) -> None:
        """Store ``state``, which includes no message, as the first one of a partition.

        :raises StaleCommit: there is one.
        """
        self._files_of(partition).save(self._image(state, 0), after=0)

    async def here(self, partition: int) -> S:
        """The state of a partition, in memory from now on."""
        return (await self._here(partition)).state

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Take ``poll`` in; yields what is sent because of it, and a checkpoint if one is due.

        :raises ModelError: messages do not fit the model, a model has diverged, or messages are missing between those
            that the state includes and these: another worker has kept what came of them in a folder of its own.
        """
        kept = await self._here(poll.partition)
        self._require_next(poll, kept)
        if len(poll.since(kept.state.next)):
            async for work in self.taken(kept.state, poll):
                yield work
            async for work in self._checkpoint_if(poll.partition, self._is_due):
                yield work

    async def taken(self, state: S, poll: Poll) -> AsyncIterator[Work]:
        """The works of a poll."""
        yield self.work(poll.partition, await compute(state.take, poll))

    def work(self, partition: int, done: Done) -> Work:
        """A work of what was done, which the next checkpoint is to include."""
        if (kept := self._kept.get(partition)) is not None:
            kept.samples += done.samples
            if kept.since_us is None:
                kept.since_us = self._clock.now_us()

        def commit() -> None:
            for each in done.commits:
                each()

        return Work(outgoing=done.outgoing, commit=commit if done.commits else None)

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        if topic == self.topic and partition in self._kept:
            async for work in self._checkpoint_if(partition, lambda kept: stopping or self._is_due(kept)):
                yield work

    def _require_next(self, poll: Poll, kept: _Kept[S]) -> None:
        # Nobody else writes here, and in no transactions: offsets have no holes.
        if poll.first <= kept.state.next:
            return
        folder, included = self.folder(poll.partition), kept.state.next
        here = f"includes those before offset {included}" if included else "includes none"
        raise ModelError(
            f"{poll.topic}, partition {poll.partition}: the first message that is still there has offset {poll.first}, "
            f"and the state in {folder} {here}. Had another worker the shards or the trainer before, with a state "
            "folder of its own? Let all workers with the roles trainer and shards share storage.state; where the state "
            "is lost, give the model another name: it begins anew with the samples that the topic has"
        )

    async def _here(self, partition: int) -> _Kept[S]:
        if partition not in self._kept:
            self._kept[partition] = await compute(self._load, partition)
        return self._kept[partition]

    def _load(self, partition: int) -> _Kept[S]:
        files = self._files_of(partition)
        sequence = files.newest()
        if not sequence:
            return _Kept(self.fresh(partition), 0, 0, 0)
        stored = files.read(sequence)
        position = int(self._checked(files, sequence, stored.header)["position"])
        return _Kept(self.loaded(partition, stored), sequence, position, position)

    def _is_due(self, kept: _Kept[S]) -> bool:
        if kept.samples >= self._checkpoints.every:
            return True
        # A clock that was set back says nothing about how long it is: then it is long enough.
        return kept.since_us is not None and not (
            0 <= self._clock.now_us() - kept.since_us < self._checkpoints.delay_us
        )

    async def _checkpoint_if(self, partition: int, due: Callable[[_Kept[S]], bool]) -> AsyncIterator[Work]:
        kept = self._kept.get(partition)
        if kept is None or kept.since_us is None or not due(kept):
            return
        position = kept.state.position
        content = await compute(self._image, kept.state, position)
        kept.samples, kept.since_us = 0, None
        done = position if position > kept.told else None
        kept.told = max(kept.told, position)
        yield Work(commit=partial(self._commit, partition, kept, content, position), done=done)

    def _image(self, state: S, position: int) -> bytes:
        values, arrays = state.image()
        header = {
            "format": FORMAT, "kind": self.name, "configuration": self.configuration, "position": position,
            "state": dict(values),
        }  # fmt: skip
        return pack(header, arrays)

    def _commit(self, partition: int, kept: _Kept[S], content: bytes, position: int) -> None:
        kept.sequence = self._files_of(partition).save(content, after=kept.sequence)
        kept.stored = position
        sizes = {"sequence": kept.sequence, "bytes": len(content)}
        _log.info(Event("checkpoint stored", stage=self.name, partition=partition, **sizes))

    def _files_of(self, partition: int) -> StateFiles:
        if partition not in self._files:
            self._files[partition] = StateFiles(self.folder(partition))
        return self._files[partition]

    def _checked(self, files: StateFiles, sequence: int, header: dict[str, Any]) -> dict[str, Any]:
        path = files.path(sequence)
        if (header.get("kind"), header.get("format")) != (self.name, FORMAT):
            raise ModelError(
                f"{path}: this is a {header.get('kind')} of format {header.get('format')}, expected {self.name} of "
                f"format {FORMAT}; read it with the Dovetail version that wrote it, or train anew elsewhere"
            )
        placement, stored = Placement.of(self.configuration), header["configuration"]
        require_same(str(path), placement.within(stored), self.comparable(stored))
        require_same(
            str(path),
            stored,
            self.comparable(stored),
            remedy=f"Stop all workers and run dovetail model reshard, which places the model on {placement} "
            "(it also finishes a change that was interrupted, or takes it back); or restore [trainer] shards"
            + (", by and workers" if placement.workers or Placement.of(stored).workers else ""),
        )
        return header
