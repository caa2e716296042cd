"""For tests of stages, Dovetail's own and its users': a clock that is moved by hand, a log in memory, a way to run
stages over it without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from dovetail.platform.stage import Outgoing, Poll, Stage, Work

__all__ = ["ManualClock", "MemoryLog", "run_stage"]


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, us: int) -> None:
        """Move the clock forward by ``us`` microseconds."""
        self._now_us += us


class MemoryLog:
    """Topics in memory: partitions of messages with consecutive offsets."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._messages: dict[str, list[list[Outgoing]]] = {
            topic: [[] for _ in range(count)] for topic, count in partitions.items()
        }

    def append(self, outgoing: Sequence[Outgoing]) -> None:
        """Append messages; without a partition they go to partition 0."""
        for message in outgoing:
            self._messages[message.topic][message.partition or 0].append(message)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The offset after the last message, by partition."""
        return {partition: len(messages) for partition, messages in enumerate(self._messages[topic])}

    def poll(self, topic: str, partition: int, offset: int, max_records: int = 1_000_000) -> Poll | None:
        """Up to ``max_records`` messages from ``offset`` on; None when there are none."""
        messages = self._messages[topic][partition][offset : offset + max_records]
        if not messages:
            return None
        return Poll(
            topic,
            partition,
            np.arange(offset, offset + len(messages), dtype=np.int64),
            np.array([message.timestamp_ms or 0 for message in messages], dtype=np.int64),
            [message.key for message in messages],
            [message.value for message in messages],
            [message.headers for message in messages],
        )


async def run_stage(
    stage: Stage,
    log: MemoryLog,
    *,
    max_records: Callable[[], int] = lambda: 1_000_000,
    drain: bool = False,
    on_step: Callable[[str, str], None] = lambda _stage, _step: None,
) -> None:
    """Feed ``stage`` everything its topics hold from its stored positions on, and carry out its works.

    Outgoing messages are appended to ``log`` when it has their topic. Between works the event loop gets a turn, so
    stages that wait for each other can run side by side. A stage that looks ahead looks at the poll that follows.
    ``on_step(stage, step)`` is called after each of the runtime's four steps; what it raises is a crash there.
    ``drain``: at the end it settles, as a worker that stops in good order.
    """
    await stage.start()
    for topic in stage.topics:
        position = dict.fromkeys(log.end_offsets(topic), 0) | dict(stage.resume(topic))
        waiting: dict[int, Poll | None] = {}
        while any(position[p] < end for p, end in log.end_offsets(topic).items()):
            for partition in log.end_offsets(topic):
                poll = waiting.pop(partition, None) or log.poll(topic, partition, position[partition], max_records())
                if poll is None:
                    continue
                if stage.looks_ahead:
                    waiting[partition] = log.poll(topic, partition, poll.last + 1, max_records())
                await _handle(stage, poll, waiting.get(partition), log, partial(on_step, stage.name))
                position[partition] = poll.last + 1
    if drain:
        for topic in stage.topics:
            for partition in log.end_offsets(topic):
                async for work in stage.settle(topic, partition, stopping=True):
                    await _carry_out(work, log, partial(on_step, stage.name))
    await stage.stop()


async def _handle(
    stage: Stage, poll: Poll, following: Poll | None, log: MemoryLog, step: Callable[[str], None]
) -> None:
    """Carry out the works for ``poll``; when the first is computed, the stage looks at the poll that follows."""
    async for work in stage.handle(poll):
        if following is not None:
            with suppress(Exception):  # it raises again in its turn
                stage.ahead(following)
            following = None
        await _carry_out(work, log, step)


async def _carry_out(work: Work, log: MemoryLog, step: Callable[[str], None]) -> None:
    """Publish and commit. When cancelled, a commit that has begun is let finish: a thread cannot be stopped."""
    step("computed")
    log.append(work.outgoing)
    step("published")
    if work.commit is not None:
        commit = asyncio.ensure_future(asyncio.to_thread(work.commit))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await commit
            raise
    step("committed")
    step("acknowledged")
