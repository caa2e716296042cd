"""The four steps of a work: nothing takes effect out of order, after a failure, or for a partition that has gone.

====================  =================================================================================
step                  afterwards
====================  =================================================================================
``computed``          nothing outside the stage has changed
``published``         the broker has acknowledged every outgoing message
``committed``         state, positions and accounts are in the store, in one transaction
``acknowledged``      the offset may be committed to the broker, once all stages of the topic are there
====================  =================================================================================
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from dovetail.platform.runtime.computing import finish
from dovetail.platform.runtime.tenure import Tenure
from dovetail.platform.stage import Observer, Outgoing, Stage, Work

__all__ = ["Steps"]

P = TypeVar("P", bound=tuple[str, int])


class Steps(Generic[P]):
    """Carries works of stages through their steps. A partition is (topic, partition). Belongs to the event loop."""

    def __init__(
        self,
        tenure: Tenure[P],
        publish: Callable[[Sequence[Outgoing]], Awaitable[object]],
        complete: Callable[[Stage, P, int], None],
        afresh: Callable[[Stage], None],
        *,
        on_step: Callable[[Stage, str], None],
        observer: Observer | None,
    ) -> None:
        """``publish`` returns when the broker has the messages; ``complete`` is told of what is done.

        ``afresh`` is told of a stage that has replaced its state (:attr:`Work.afresh`). ``on_step`` is called after
        each step; what it raises keeps the next from being taken.
        """
        #: Steps taken in each (stage, topic, partition): whatever is at work, this moves.
        self.taken: Counter[tuple[str, str, int]] = Counter()
        self._tenure = tenure
        self._publish = publish
        self._complete = complete
        self._afresh = afresh
        self._on_step = on_step
        self._observer = observer

    def beat(self, stage: str, partition: P) -> None:
        """A stage gets on in a partition, between two steps. From any thread."""
        self.taken[stage, *partition] += 1

    async def take_all(
        self, stage: Stage, partition: P, works: AsyncIterator[Work], tenure: int, enough: Callable[[], bool]
    ) -> None:
        """Carry ``works`` through, one after the other; they are closed at the end, whatever it is.

        From when there is ``enough`` on, only as far as the next point to resume from. Raises what a step raises, and
        :class:`~dovetail.platform.runtime.tenure.Gone` when the partition has gone.
        """
        try:
            async for work in works:
                await self._take(stage, partition, work, tenure)
                if work.done is not None and enough():
                    return
        finally:
            close = getattr(works, "aclose", None)
            if close is not None:
                await close()

    async def _take(self, stage: Stage, partition: P, work: Work, tenure: int) -> None:
        self.taken[stage.name, *partition] += 1
        self._on_step(stage, "computed")
        async with self._tenure.effect(partition, tenure):
            if work.outgoing:
                await self._publish(work.outgoing)
            self._on_step(stage, "published")
            if work.commit is not None:
                await self._commit(stage, work.commit)
            if work.afresh:
                self._afresh(stage)
            self._on_step(stage, "committed")
            if work.done is not None:
                self._complete(stage, partition, work.done)
            self._on_step(stage, "acknowledged")
        self.taken[stage.name, *partition] += 1

    async def _commit(self, stage: Stage, commit: Callable[[], None]) -> None:
        began = time.perf_counter()
        await finish(commit)
        if self._observer is not None:
            self._observer.committed(stage.name, time.perf_counter() - began)
