"""Errors about positions that aiokafka looked for itself, after a rebalance and before it is told the stores' ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import (
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import TopicPartition
from faust.types import TP

from dovetail.platform.runtime.runner import create_app
from dovetail.platform.transports.kafka.driver import ConsumerThread
from tests.platform.transports.limited import run

ONE, OTHER = TopicPartition("topic", 0), TopicPartition("topic", 1)


class Reading:
    """The driver's thread over aiokafka's own buffers, without a broker: a test says what was answered."""

    def __init__(self) -> None:
        app: Any = create_app("test", "kafka://127.0.0.1:9", topics={"topic": 2})
        self.thread: Any = app.consumer._thread
        self.consumer: Any = AIOKafkaConsumer(auto_offset_reset="none")
        self.consumer._subscription.subscribe({"topic"})
        self.rebalance()
        self.consumer._fetcher = Fetcher(
            self.consumer._client, self.consumer._subscription, auto_offset_reset="none", fetcher_timeout=0
        )
        self.consumer._fetcher._fetch_task.cancel()
        self.consumer._coordinator = SimpleNamespace(check_errors=lambda: None)
        self.thread._consumer = self.consumer

    def rebalance(self) -> None:
        """Both partitions are assigned anew, and have no position."""
        self.consumer._subscription.assign_from_subscribed({ONE, OTHER})

    async def seek(self, **positions: int) -> None:
        await self.thread._seek_all({TP("topic", {"one": 0, "other": 1}[name]): at for name, at in positions.items()})

    async def poll_after(self, partition: TopicPartition, error: KafkaError) -> list[Any]:
        """A poll that meets ``error`` of ``partition`` in aiokafka's buffer."""
        self.consumer._fetcher._set_error(partition, error)
        polls: list[Any] = await self.thread._poll({TP(*ONE), TP(*OTHER)})
        assert partition not in self.consumer._fetcher._records
        return polls


def reading(test: Callable[[Reading], Awaitable[None]]) -> None:
    async def main() -> None:
        over = Reading()
        assert isinstance(over.thread, ConsumerThread)
        try:
            await test(over)
        finally:
            over.consumer._coordinator = None
            await over.consumer.stop()
            over.thread.thread_loop.close()

    run(main())


def test_a_group_without_offsets_is_no_error() -> None:
    async def told(over: Reading) -> None:
        assert await over.poll_after(ONE, NoOffsetForPartitionError(ONE)) == []
        await over.seek(one=3, other=4)
        over.rebalance()
        assert await over.poll_after(OTHER, NoOffsetForPartitionError(OTHER)) == []

    reading(told)


def test_a_seek_drops_what_was_kept_of_before() -> None:
    async def told(over: Reading) -> None:
        over.consumer._fetcher._set_error(ONE, NoOffsetForPartitionError(ONE))
        await over.seek(one=3, other=4)
        assert over.consumer._fetcher._records == {}

    reading(told)


def test_a_committed_offset_that_the_broker_no_longer_has_is_an_error_only_where_it_was_sought() -> None:
    async def told(over: Reading) -> None:
        assert await over.poll_after(ONE, OffsetOutOfRangeError({ONE: 3})) == []
        await over.seek(one=3)
        with pytest.raises(OffsetOutOfRangeError):
            await over.poll_after(ONE, OffsetOutOfRangeError({ONE: 3}))
        assert await over.poll_after(OTHER, OffsetOutOfRangeError({OTHER: 4})) == []
        over.rebalance()
        assert await over.poll_after(ONE, OffsetOutOfRangeError({ONE: 3})) == []

    reading(told)


def test_an_error_that_is_about_no_position_is_always_one() -> None:
    async def told(over: Reading) -> None:
        with pytest.raises(TopicAuthorizationFailedError):
            await over.poll_after(ONE, TopicAuthorizationFailedError("topic"))

    reading(told)
