"""Topics of a Kafka cluster, to look at: no group is joined and no offset is committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.fetched import coalesced

__all__ = ["KafkaView"]

_WAIT_MS = 1_000


class KafkaView:
    """The topics of a cluster. Rows of transactions that were aborted or are open are not shown."""

    def __init__(self, settings: Mapping[str, Any], max_fetch_bytes: int) -> None:
        """``settings`` are those of a client of aiokafka: its servers and credentials."""
        self._settings, self._max_fetch_bytes = settings, max_fetch_bytes
        self._servers = settings["bootstrap_servers"]
        self._consumer: Any = None
        self._at: tuple[Any, int] | None = None

    async def __aenter__(self) -> KafkaView:
        self._consumer = aiokafka.AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._max_fetch_bytes,
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
            # What the consumer itself knows of are the topics that are assigned to it.
            cluster = await self._consumer._client.fetch_all_metadata()  # noqa: SLF001 - there is no public way
            places = [aiokafka.TopicPartition(topic, number) for number in cluster.partitions_for_topic(topic) or ()]
            if not places:
                return {}
            starts = await self._consumer.beginning_offsets(places)
            ends = await self._consumer.end_offsets(places)
        except KafkaError as error:
            raise TransportError(f"Kafka at {self._servers} does not say where {topic} ends: {error!r}") from error
        return {place.partition: (starts[place], ends[place]) for place in places}

    async def read(self, topic: str, partition: int, offset: int) -> Poll | None:
        place = aiokafka.TopicPartition(topic, partition)
        try:
            if self._at != (place, offset):
                self._consumer.assign([place])
                self._consumer.seek(place, offset)
            found = await self._consumer.getmany(place, timeout_ms=_WAIT_MS)
        except KafkaError as error:
            raise TransportError(f"cannot read {topic} at {self._servers}: {error!r}") from error
        records = found.get(place)
        if not records:
            self._at = (place, offset)
            return None
        self._at = (place, records[-1].offset + 1)
        return coalesced(records)
