"""A second consumer, of no group, that reads what is in a topic already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import aiokafka
from aiokafka.errors import KafkaError

from dovetail.platform.errors import TransportError

__all__ = ["LookingBack", "answer_of"]

_T = TypeVar("_T")
# How often a thread that waits for an answer looks whether the one who would give it still lives.
_LOOK_ROUND_S = 0.2
_FETCH_MS = 1_000
# Fetches that find nothing until the broker counts as not answering.
_PATIENCE = 30


def answer_of(asked: Future[_T], stopped: Callable[[], bool]) -> _T | None:
    """The result of ``asked``, which must raise no TimeoutError of its own; None when it is ``stopped`` before."""
    while not stopped():
        try:
            return asked.result(_LOOK_ROUND_S)
        except TimeoutError:
            continue
    asked.cancel()
    return None


class LookingBack:
    """Reads at any offset of any partition. Belongs to the event loop it is used in; the consumer is made when needed.

    ``make`` makes one that is in no group.
    """

    def __init__(self, make: Callable[[], aiokafka.AIOKafkaConsumer]) -> None:
        self._make = make
        self._consumer: aiokafka.AIOKafkaConsumer | None = None
        self._one = asyncio.Lock()

    async def bounds(self, partition: Any) -> tuple[int, int]:
        """First kept and next offset of a partition."""
        async with self._one:
            try:
                consumer = await self._started()
                starts = await consumer.beginning_offsets([partition])
                ends = await consumer.end_offsets([partition])
            except (KafkaError, TimeoutError) as error:
                raise TransportError(f"the broker does not say where {partition} begins and ends: {error!r}") from error
        return starts[partition], ends[partition]

    async def read(self, partition: Any, offset: int) -> Sequence[Any]:
        """Records from ``offset`` on, or from the first one kept; none where there is none."""
        async with self._one:
            try:
                consumer = await self._started()
                consumer.assign([partition])
                end = (await consumer.end_offsets([partition]))[partition]
                consumer.seek(partition, offset)
                for _ in range(_PATIENCE):
                    if offset >= end or await consumer.position(partition) >= end:
                        return ()
                    found = await consumer.getmany(partition, timeout_ms=_FETCH_MS)
                    if records := found.get(partition):
                        return list(records)
            except (KafkaError, TimeoutError) as error:
                raise TransportError(f"reading {partition} again from offset {offset} failed: {error!r}") from error
        raise TransportError(f"reading {partition} again from offset {offset}: the broker has sent nothing")

    async def stop(self) -> None:
        """Close the connections."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def _started(self) -> aiokafka.AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._make()
            await consumer.start()
            self._consumer = consumer
        return self._consumer
