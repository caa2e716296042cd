"""The interface of an agent's work, free of Faust: a stage takes polls in and gives works out.

A :class:`Stage` turns each :class:`Poll` of its topics into :class:`Work`. The runtime (``runtime/``) carries every
work through the same four steps, in this order, and ends the worker if one of them fails:

1. *computed*: the stage has made the work; nothing outside the stage has changed yet;
2. *published*: the broker has acknowledged the outgoing messages;
3. *committed*: ``commit`` has stored state, positions and accounts in one compare-and-set transaction;
4. *acknowledged*: the broker may store the offset, as a hint; resuming goes by the positions of step 3.

After a crash between 2 and 3 the work is published again, with the same source positions, and readers drop the
repetition. After a crash between 3 and 4 the poll is read again, and the stage skips the rows that its stored position
includes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.refusals import Refusals

__all__ = ["AT_ONCE", "Gather", "Observer", "Outgoing", "Poll", "Stage", "Work", "check_stages"]


@dataclass(frozen=True, slots=True)
class Poll:
    """Consecutive messages of one partition, returned by one fetch, as columns.

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
    #: Results that do not depend on who reads the poll (its rows, decoded), kept for the other stages that read it.
    shared: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the messages alone: another process makes of them what it needs."""
        columns = (self.offsets, self.timestamps_ms, self.keys, self.values, self.headers)
        return Poll, (self.topic, self.partition, *columns)

    @property
    def first(self) -> int:
        """Offset of the first message."""
        return int(self.offsets[0])

    @property
    def last(self) -> int:
        """Offset of the last message."""
        return int(self.offsets[-1])

    @staticmethod
    def joined(polls: Sequence[Poll]) -> Poll:
        """Consecutive polls of one partition, at least one, as one poll. A single one is returned as it is."""
        if len(polls) == 1:
            return polls[0]
        return Poll(
            polls[0].topic,
            polls[0].partition,
            np.concatenate([poll.offsets for poll in polls]),
            np.concatenate([poll.timestamps_ms for poll in polls]),
            [key for poll in polls for key in poll.keys],
            [value for poll in polls for value in poll.values],
            [headers for poll in polls for headers in poll.headers],
        )

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
class Gather:
    """How long a stage lets messages of a partition be gathered before it is given them, as one poll.

    Until the first of them has waited for ``max_wait_us``, or there are ``max_messages`` or ``max_bytes`` of values.
    """

    max_wait_us: int = 0
    max_messages: int = 1_000
    max_bytes: int = 1 << 20


#: Nothing is gathered: each poll is given as it was fetched, as soon as the stage is idle.
AT_ONCE = Gather()


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
    """The effects that a stage makes of a poll, or of a part of one.

    ``commit`` runs in a thread, after ``outgoing`` is durable; it raises :class:`~dovetail.platform.errors.StaleCommit`
    when the stored position is not the one the stage expected. ``done`` is the offset after the last message that this
    work completes, or None when it completes none.

    ``afresh``: with this commit the stage has put another state in the place of the one it had, and its stored
    positions may be before or after what it was given. All readers of its topics go on from what they have stored, as
    after a rebalance. A crash before that changes nothing: the next start does the same.
    """

    outgoing: Sequence[Outgoing] = field(default_factory=tuple)
    commit: Callable[[], None] | None = None
    done: int | None = None
    afresh: bool = False


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
    #: How long its messages may be gathered. Results do not depend on it: a stage may be given any cut of its log.
    gather: Gather = AT_ONCE
    #: Whether its partitions are handled each by itself: while the works of one are published and committed, another
    #: one's poll is computed. Computing still is one after the other, where it is done by ``compute``.
    by_partition: bool = False
    #: Whether :meth:`ahead` computes something.
    looks_ahead: bool = False

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

    def ahead(self, poll: Poll) -> None:  # noqa: B027 - of those that look ahead
        """Compute what :meth:`handle` would of a poll that waits, without what any before it says; keep it in the poll.

        Asked of stages that look ahead (:attr:`looks_ahead`), where they compute, while they handle a poll of the same
        partition. The poll may be handled whole, in part, or never. What is raised counts for nothing: ``handle``
        raises it again. It has no effect, and no result may depend on whether it was called.
        """

    async def start(self) -> None:  # noqa: B027 - most stages have nothing to prepare
        """Prepare; called once, before the worker joins its group.

        Kernels, above all, are compiled here. That takes long where nobody has run them before, and a worker that has
        partitions must be able to give them back soon.
        """

    def forget(self, topic: str, partitions: Collection[int]) -> None:  # noqa: B027
        """Drop the memory held of these partitions, which have gone to another worker.

        Called in the event loop, before the next :meth:`resume`. A ``handle`` that is busy with one of them is not
        asked for further works; where it waits for something, it returns. As long as one is busy, this is called again
        and again: it may not have come to where it waits.
        """

    def hurry(self) -> None:  # noqa: B027
        """Let a ``handle`` that waits for something outside the stage return: the worker is about to stop.

        Called in the event loop. A ``handle`` that computes may finish. Its poll is read again after the stop.
        """

    @property
    def waiting(self) -> str | None:
        """The event outside the stage that it rightly waits for, in words; None while it is idle or at work."""
        return None

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        """Yield works for the messages of this partition that were handled and not completed yet; none by default.

        For a stage that gathers many rows before it commits. The runtime asks every second or so, between two polls,
        also when no poll comes any more; the stage decides what has been owed for too long. ``stopping``: the worker
        stops in good order and no further poll comes, so everything owed is due. ``done`` is no further than the
        messages handled.
        """
        nothing: tuple[Work, ...] = ()
        for work in nothing:
            yield work

    async def stop(self) -> None:  # noqa: B027
        """Clean up. Called once, after the last poll and :meth:`forget` of all partitions: others may have them."""


class Observer(Protocol):
    """Callbacks of the runtime, for metrics. They are called in the event loop, must be quick and must not raise."""

    def polled(self, stage: str, topic: str, messages: int) -> None:
        """The stage is given a poll of so many messages."""

    def committed(self, stage: str, seconds: float) -> None:
        """A commit of the stage took so long."""


def check_stages(stages: Sequence[Stage], declared: Collection[str]) -> None:
    """Check that the stages of a worker can be told apart and have topics to read.

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
