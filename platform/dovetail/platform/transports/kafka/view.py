"""Topics of a Kafka cluster, to look at: no group is joined and no offset is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.fetched import coalesced

__all__ = ["KafkaView"]

_WAIT_MS = 1_000
#: The broker answers a fetch at the end of a partition after this; the next one, of another partition, waits for it.
_FETCH_WAIT_MS = 50


class KafkaView:
    """The topics of a cluster. Rows of transactions that were aborted or are open are not shown.

    Several tasks of one event loop may share it: one reads at a time. Between two reads nothing is fetched.
    """

    def __init__(self, settings: Mapping[str, Any], max_fetch_bytes: int) -> None:
        """``settings`` are those of a client of aiokafka: its servers and credentials."""
        self._settings, self._max_fetch_bytes = settings, max_fetch_bytes
        self._servers = settings["bootstrap_servers"]
        self._consumer: Any = None
        self._at: tuple[Any, int] | None = None
        self._reading = asyncio.Lock()
        #: The partitions of topics that are there; a topic of ours keeps its number of them.
        self._places: dict[str, list[Any]] = {}

    async def __aenter__(self) -> KafkaView:
        self._consumer = aiokafka.AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._max_fetch_bytes,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            **self._settings,
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise TransportError(f"cannot reach Kafka at {self._servers}: {error!r}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        try:
            places = await self._partitions(topic)
            if not places:
                return {}
            starts, ends = await asyncio.gather(
                self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
            )
        except KafkaError as error:
            raise TransportError(f"Kafka at {self._servers} does not say where {topic} ends: {error!r}") from error
        return {place.partition: (starts[place], ends[place]) for place in places}

    async def _partitions(self, topic: str) -> list[Any]:
        if topic not in self._places:
            # What the consumer itself knows of are the topics that are assigned to it.
            cluster = await self._consumer._client.fetch_all_metadata()  # noqa: SLF001 - there is no public way
            found = sorted(cluster.partitions_for_topic(topic) or ())
            if not found:
                return []
            self._places[topic] = [aiokafka.TopicPartition(topic, number) for number in found]
        return self._places[topic]

    async def read(self, topic: str, partition: int, offset: int) -> Poll | None:
        place = aiokafka.TopicPartition(topic, partition)
        async with self._reading:
            try:
                if self._at != (place, offset):
                    self._consumer.assign([place])
                    self._consumer.seek(place, offset)
                else:
                    self._consumer.resume(place)
                self._at = None  # until it is known how far it has come
                found = await self._consumer.getmany(place, timeout_ms=_WAIT_MS)
                self._consumer.pause(place)
            except KafkaError as error:
                raise TransportError(f"cannot read {topic} at {self._servers}: {error!r}") from error
            records = found.get(place)
            self._at = (place, records[-1].offset + 1 if records else offset)
        return coalesced(topic, partition, records) if records else None
