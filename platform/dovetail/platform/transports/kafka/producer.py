"""The producer of the Kafka driver: whole runs of messages in batches, acknowledged before they count."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as stock

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.kafka.partition_queue import PartitionQueue
from dovetail.platform.transports.partitioning import partition_of_key

__all__ = ["Producer"]

# After a crash, how long one waits for what is on its way.
_DROP_PATIENCE_S = 1.0


class Producer(stock.Producer):
    """Publishes to Kafka by batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turns: defaultdict[str, Any] = defaultdict(count)
        self._queues: dict[tuple[str, int], PartitionQueue] = {}

    def _settings_extra(self) -> Mapping[str, Any]:
        # A batch that is sent again because its answer got lost is in the topic once, and order survives a retry.
        return {"acks": "all", "enable_idempotence": True}

    async def flush(self) -> None:
        """Wait for what is being sent. Not after a crash: a broker that is away would be waited for until it is back.

        Who has published has waited for the broker to have it, and has been told where it had not.
        """
        if self.app.crash_reason is None:
            await super().flush()

    async def on_stop(self) -> None:
        """Stop aiokafka, which sends first what it has been given, and then whatever waits.

        After a crash it has a moment for that, and connections close.
        """
        producer = self._producer
        if self.app.crash_reason is None or producer is None:
            await super().on_stop()
        else:
            try:
                async with asyncio.timeout(_DROP_PATIENCE_S):
                    await super().on_stop()
            except TimeoutError:
                await producer.client.close()
        for queue in self._queues.values():
            queue.close()

    async def publish(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Send all messages, in order within a partition; ``(partition, offset)`` of each, when the broker has them.

        What is published to a partition while a batch of it is under way shares the next one (``partition_queue.py``).

        Raises TransportError when it has not, in twice ``producer_request_timeout`` at most: aiokafka gives up a batch
        after it, but asks for metadata and for a producer's id without end. Part of the messages may be in the topics:
        in each partition the first ones, with no gap. Readers drop by position, and would drop what filled a gap later.
        """
        producer = self._ensure_producer()
        try:
            async with asyncio.timeout(2 * self.app.conf.producer_request_timeout):
                totals = {topic: len(await producer.partitions_for(topic)) for topic in {m.topic for m in outgoing}}
                runs: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
                for index, message in enumerate(outgoing):
                    runs[message.topic, self._place(message, totals[message.topic])].append(index)
                offsets = await asyncio.gather(
                    *(self._publish_run(*place, [outgoing[index] for index in run]) for place, run in runs.items())
                )
        except (KafkaError, TimeoutError) as error:
            raise TransportError(
                f"publishing {len(outgoing)} messages to {', '.join(sorted({m.topic for m in outgoing}))} "
                f"at {';'.join(str(url) for url in self.transport.url)} failed: {error!r}"
            ) from error
        places = {
            index: (partition, offset)
            for ((_, partition), run), found in zip(runs.items(), offsets, strict=True)
            for index, offset in zip(run, found, strict=True)
        }
        return [places[index] for index in range(len(outgoing))]

    def _place(self, message: Outgoing, total: int) -> int:
        if message.partition is not None:
            if not 0 <= message.partition < total:
                raise TransportError(
                    f"topic {message.topic!r} has partitions 0 to {total - 1}; there is no {message.partition}"
                )
            return message.partition
        if message.key is not None:
            return partition_of_key(message.key, total)
        return int(next(self._turns[message.topic])) % total

    async def _publish_run(self, topic: str, partition: int, run: Sequence[Outgoing]) -> list[int]:
        """The offsets of ``run``, in order."""
        queue = self._queues.get((topic, partition))
        if queue is None:
            send = partial(self._send, topic, partition)
            queue = self._queues[topic, partition] = PartitionQueue(self._create, send, _now_ms)
        return await queue.put(run)

    def _create(self) -> Any:
        return self._ensure_producer().create_batch()

    async def _send(self, topic: str, partition: int, batch: Any) -> int:
        """Send a batch; the offset of its first message, when the broker has it."""
        sent = await (await self._ensure_producer().send_batch(batch, topic, partition=partition))
        return int(sent.offset)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
