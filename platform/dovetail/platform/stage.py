"""What an agent does, free of Faust: polls in, work out.

A *stage* turns a poll of a topic into :class:`Work`. The runtime (``runtime/``) carries every work through the same
four steps, in this order, and crashes the worker if one of them fails:

1. the stage computes; nothing outside it has changed yet;
2. what it publishes is acknowledged by the broker;
3. its ``commit`` stores state, positions and accounts in one compare-and-set transaction;
4. the poll is acknowledged to the broker (a hint: resuming goes by the positions stored in step 3).

A crash after step 2 publishes again, with the same source positions, and readers drop the repetition. A crash after
step 3 reads again, and the stage drops what its stored position already includes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.refusals import Refusals

__all__ = ["Observer", "Outgoing", "Poll", "Stage", "Work", "check_stages"]


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll of one partition returned: a run of consecutive messages, as columns.

    ``offsets`` is ascending but may have holes (compaction, transactions). ``timestamps_ms`` are the broker's or
    producer's, in milliseconds since 1970-01-01 UTC. A missing value (tombstone) is None.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[tuple[str, bytes]]]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> int:
        """Offset of the first message."""
        return int(self.offsets[0])

    @property
    def last(self) -> int:
        """Offset of the last message."""
        return int(self.offsets[-1])

    def since(self, offset: int) -> Poll:
        """The part of this poll at or after ``offset``; may be empty."""
        cut = int(np.searchsorted(self.offsets, offset))
        return self if cut == 0 else self._part(slice(cut, None))

    def before(self, offset: int) -> Poll:
        """The part of this poll before ``offset``; may be empty."""
        return self._part(slice(int(np.searchsorted(self.offsets, offset))))

    def _part(self, part: slice) -> Poll:
        return Poll(
            self.topic,
            self.partition,
            self.offsets[part],
            self.timestamps_ms[part],
            self.keys[part],
            self.values[part],
            self.headers[part],
        )


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish. ``partition`` None lets the broker's partitioner decide by key."""

    topic: str
    value: bytes
    key: bytes | None = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage made of (a part of) a poll.

    ``commit`` runs in a thread, after ``outgoing`` is durable; it raises :class:`~dovetail.platform.errors.StaleCommit`
    when the stored position is not what the stage expected. ``done`` is the offset after the last message this work
    completes, or None when it completes none.
    """

    outgoing: Sequence[Outgoing] = field(default_factory=tuple)
    commit: Callable[[], None] | None = None
    done: int | None = None


class Stage(ABC):
    """One step of the flow, reading one or more topics.

    Guarantees asked of an implementation: ``handle`` has no effect outside the stage, all effects are in the works it
    yields; polls of one partition are handled one after the other, in order; ``resume`` is read from the same store
    that ``commit`` writes.
    """

    #: Name in metrics, accounts and ``--agents``.
    name: str
    #: Topics it reads.
    topics: Sequence[str]
    #: Of a stage that reads from outside: where messages are refused that it cannot compute. None where it reads what
    #: Dovetail has made: what cannot be computed of that is no fault of a message, and ends the worker.
    refusals: Refusals | None = None

    @abstractmethod
    def resume(self, topic: str) -> Mapping[int, int]:
        """The next offset to read, by partition, as stored; partitions not in it are read from their beginning."""

    @abstractmethod
    def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Turn a poll into works. The runtime finishes each work before it asks for the next."""

    def probe(self, poll: Poll) -> None:  # noqa: B027 - of those with refusals
        """Compute all that :meth:`handle` would of a part of a poll, and drop it; raises what it raises.

        Asked of stages with :attr:`refusals`, in a thread or another process, to find the message that cannot be
        computed. The part need not go on where the stage is.
        """

    async def start(self) -> None:  # noqa: B027 - most stages have nothing to prepare
        """Called once, before the worker joins its group: what would make the first poll slow is done here.

        Compiling kernels above all, which takes long where nobody has run them before: a worker that has partitions
        must be able to give them back soon.
        """

    def forget(self, topic: str, partitions: Collection[int]) -> None:  # noqa: B027
        """These partitions have gone to another worker: drop what is held of them in memory.

        Called in the event loop, before the next :meth:`resume`. A ``handle`` that is busy with one of them is not
        asked for anything any more: where it waits for something, it returns.
        """

    def hurry(self) -> None:  # noqa: B027
        """The worker is about to stop: a ``handle`` that waits for something from outside returns instead.

        Called in the event loop. What a ``handle`` is computing it may finish. Its poll is read again after the stop.
        """

    @property
    def waiting(self) -> str | None:
        """What from outside the stage rightly waits for, in words; None while it is idle or at work."""
        return None

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        """What has been owed of this partition for too long: works as of :meth:`handle`, none by default.

        For a stage that gathers much before it commits. Asked every second or so, between two polls, also when no poll
        comes any more; ``done`` is no further than what was handled. ``stopping``: the worker stops in good order, so
        all that is owed, however short; there is no further poll.
        """
        nothing: tuple[Work, ...] = ()
        for work in nothing:
            yield work

    async def stop(self) -> None:  # noqa: B027
        """Called once, after the last poll and :meth:`forget` of all partitions: others may have them by now."""


class Observer(Protocol):
    """Is told what the runtime does; for metrics. Called in the event loop, must be quick and must not raise."""

    def polled(self, stage: str, topic: str, messages: int) -> None:
        """A stage is given a poll of so many messages."""

    def committed(self, stage: str, seconds: float) -> None:
        """A commit of a stage took so long."""


def check_stages(stages: Sequence[Stage], declared: Collection[str]) -> None:
    """That the stages of a worker can be told apart and have something to read.

    Raises:
        ConfigError: two have one name, one reads nothing, or one reads a topic that is not ``declared``.
    """
    names = Counter(stage.name for stage in stages)
    twice = sorted(name for name, times in names.items() if times > 1)
    if twice:
        raise ConfigError(f"two stages are called {', '.join(twice)}; positions and accounts go by name: rename one")
    for stage in stages:
        undeclared = sorted(set(stage.topics) - set(declared))
        if undeclared or not stage.topics:
            raise ConfigError(
                f"stage {stage.name} reads {', '.join(undeclared) or 'no topic'}; "
                "declare the topics it reads, with their partitions, in create_app(topics=...)"
            )
