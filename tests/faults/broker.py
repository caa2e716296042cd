"""What the harness does with the broker itself: send, count, and read a topic from its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.transports.partitioning import partition_of_key

__all__ = ["Broker"]

_SECONDS = 20.0
_QUIET: dict[str, str | int | float | bool] = {"log_level": 0}


class Broker:
    """A client of the broker at ``url``; it waits for one that is down."""

    def __init__(self, url: str) -> None:
        servers: dict[str, str | int | float | bool] = {"bootstrap.servers": url.removeprefix("kafka://"), **_QUIET}
        self._producer = Producer(
            {**servers, "enable.idempotence": True, "message.timeout.ms": 120_000, "linger.ms": 5}
        )
        self._admin = AdminClient(servers)
        self._consumer = Consumer(
            {**servers, "group.id": "harness", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )

    def close(self) -> None:
        """Release connections."""
        self._consumer.close()
        self._producer.flush(_SECONDS)

    def send(self, messages: Sequence[Outgoing], partitions: dict[str, int]) -> None:
        """Send in order; returns when the broker has them all."""
        failed: list[Any] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failed.append(error)

        for message in messages:
            partition = message.partition
            if partition is None:
                partition = partition_of_key(message.key or b"", partitions[message.topic])
            while True:
                try:
                    self._producer.produce(
                        message.topic,
                        message.value,
                        message.key,
                        partition,
                        on_delivery=delivered,
                        timestamp=message.timestamp_ms or 0,
                        headers=[(name, value) for name, value in message.headers],
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        left = self._producer.flush(150.0)
        assert not failed, failed[0]
        assert left == 0, f"the broker has not taken {left} messages"

    def ends(self, topics: dict[str, int]) -> dict[tuple[str, int], int]:
        """The offset after the last message, by topic and partition."""
        return {
            (topic, partition): self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_SECONDS, cached=False
            )[1]
            for topic, partitions in topics.items()
            for partition in range(partitions)
        }

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The group's committed offsets."""
        future = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
        found = future.result(_SECONDS)
        return {(tp.topic, tp.partition): tp.offset for tp in found.topic_partitions if tp.offset >= 0}

    def read(self, topic: str, partitions: int) -> list[Poll]:
        """All that a topic holds: one poll per partition that has something."""
        polls = []
        for partition in range(partitions):
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), _SECONDS, cached=False)
            if high == low:
                continue
            self._consumer.assign([TopicPartition(topic, partition, low)])
            found: list[Any] = []
            while not found or found[-1].offset() < high - 1:
                # As many as may still come: it waits for that many, or for the time to be over.
                left = high - (found[-1].offset() + 1 if found else low)
                found += [m for m in self._consumer.consume(left, timeout=0.3) if m.error() is None]
            polls.append(
                Poll(
                    topic,
                    partition,
                    np.array([m.offset() for m in found], dtype=np.int64),
                    np.array([m.timestamp()[1] for m in found], dtype=np.int64),
                    [m.key() for m in found],
                    [m.value() for m in found],
                    [tuple(m.headers() or ()) for m in found],
                )
            )
        self._consumer.unassign()
        return polls
