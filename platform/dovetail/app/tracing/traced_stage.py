"""A stage whose polls are told as spans, where their messages bring a trace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing
from typing import Any, cast

from dovetail.app.tracing.phases import Phase, Phases
from dovetail.app.tracing.spans import Spans, Traced
from dovetail.platform.stage import Poll, Stage, Work

__all__ = ["TracedStage", "traced_messages"]

#: Messages of a poll that are told: a trace is a sample, and a poll may have a hundred thousand of them.
_MOST = 100


def traced_messages(poll: Poll) -> list[Traced]:
    """The messages of a poll that have a ``traceparent``, the first hundred."""
    found = []
    for offset, headers in zip(poll.offsets, poll.headers, strict=True):
        if headers:
            carried = {name: value for name, value in headers if name in ("traceparent", "tracestate")}
            if "traceparent" in carried:
                found.append(Traced(int(offset), carried))
                if len(found) == _MOST:
                    break
    return found


class TracedStage(Stage):
    """``stage``, of whose traced messages each is a span ``root``, with its phases and ``last`` in it.

    ``last`` is the phase from when the first work is computed until the effects of all are durable. A poll without a
    traced message goes the stage's own way.
    """

    def __init__(self, stage: Stage, spans: Spans, phases: Phases, *, root: str, last: str) -> None:
        self._stage, self._spans, self._phases, self._root, self._last = stage, spans, phases, root, last
        self.name, self.topics, self.refusals = stage.name, stage.topics, stage.refusals

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        traced = traced_messages(poll)
        if not traced:
            async with aclosing(_generator(self._stage.handle(poll))) as works:
                async for work in works:
                    yield work
            return
        began, computed, failed = self._phases.now_ns(), None, ""
        with self._phases.noting() as noted:
            try:
                async with aclosing(_generator(self._stage.handle(poll))) as works:
                    async for work in works:
                        computed = self._phases.now_ns() if computed is None else computed
                        yield work
            except Exception as error:
                failed = type(error).__name__
                raise
            finally:
                end = self._phases.now_ns()
                phases = [*noted, *([] if computed is None else [Phase(self._last, computed, end)])]
                self._spans.tell(self._root, poll, traced, Phase(self._root, began, end), phases, failed)

    def resume(self, topic: str) -> Mapping[int, int]:
        return self._stage.resume(topic)

    def probe(self, poll: Poll) -> None:
        self._stage.probe(poll)

    @property
    def looks_ahead(self) -> bool:  # type: ignore[override]
        return self._stage.looks_ahead

    def ahead(self, poll: Poll) -> None:
        self._stage.ahead(poll)

    async def start(self) -> None:
        await self._stage.start()

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._stage.forget(topic, partitions)

    def hurry(self) -> None:
        self._stage.hurry()

    @property
    def waiting(self) -> str | None:
        return self._stage.waiting

    def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        return self._stage.settle(topic, partition, stopping=stopping)

    async def stop(self) -> None:
        await self._stage.stop()


def _generator(works: AsyncIterator[Work]) -> Any:
    """Works as what can be closed; a stage's ``handle`` is an async generator."""
    return cast("Any", works)
