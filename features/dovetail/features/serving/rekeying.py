"""Re-keying: the events of a stream, partitioned by another column, as a stream of their own.

A view's state is kept per key and source partition. Where events are keyed by user, each item's are spread over all
partitions, and a request reads as many states per item. Re-keyed by item they are one.

A re-keyed row carries the position in the stream that it was made from. It may be published again after a crash, by
rows in the order of their source; whoever reads the topic drops the repetition (:class:`SourceFilter`) and keeps what
it has seen of each source partition with its own position, in the same commit. Everything else goes by positions in the
re-keyed topic: state, what a snapshot has seen, the archive, batch. So stream and batch agree on it as on any stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dovetail.features.plan.definitions import Stream
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.serving.enriched import enriched
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.partitions import partitions_of
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.intake import Intake, Received, spoken_ms
from dovetail.platform.rows.positions import SOURCE_COLUMNS, Progress, own_position_columns, with_source_positions
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry

__all__ = ["RekeyStage", "rekeyed_schema"]


def rekeyed_schema(schema: TableSchema) -> TableSchema:
    """The schema of a re-keyed topic's messages: the declared columns, and the source positions."""
    positions = [field.with_name(name) for name, field in zip(SOURCE_COLUMNS, own_position_columns(), strict=True)]
    return replace(schema, arrow=pa.schema([*schema.arrow, *positions]))


class RekeyStage(Stage):
    """Reads the stream that ``rekeyed`` is made of and writes ``rekeyed``, which has ``partitions`` partitions.

    Rows of one key come to one partition: the one that Kafka's default partitioner gives the key's text. A poll gives
    one message per partition that it has rows for. Rows of a source partition keep their order.

    ``dead_letter_topic``: where malformed messages go; None when another stage of the project reads the stream too and
    sends them there. They are counted here in both cases.

    ``versions``: where the batch views are looked up that ``rekeyed`` is enriched from; needed where there are some.
    The row that is published has their values, so that every reader has the same for good.
    """

    def __init__(
        self,
        rekeyed: Stream,
        topic: str,
        intake: Intake,
        registry: Registry,
        *,
        partitions: int,
        dead_letter_topic: str | None,
        versions: BatchVersions | None = None,
    ) -> None:
        self._versions = versions
        self.name = stage_name(rekeyed.name)
        self.topics = (topic,)
        self._rekeyed = rekeyed
        self._intake = intake
        self.refusals = intake.refusals
        self._registry = registry
        self._partitions = partitions
        self._dead_letter_topic = dead_letter_topic
        self._stored: dict[int, Progress] = {}

    async def start(self) -> None:
        await asyncio.to_thread(partitions_of, pa.array(["any"]), self._partitions)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._stored = dict(self._registry.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._stored.items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        before = self._stored.get(poll.partition, Progress())
        poll = poll.since(before.next_offset)
        if len(poll):
            yield await compute(self._admitted, poll, before.next_offset)

    def probe(self, poll: Poll) -> None:
        received = self._intake.read(poll)
        if not self._rekeyed.enriched:  # versions are made where they are kept, not in a child
            self._work(poll, received, poll.first)

    def _admitted(self, poll: Poll, expected: int) -> Work:
        return self._work(poll, self._intake.admit(poll), expected)

    def _work(self, poll: Poll, received: Received, expected: int) -> Work:
        newest_ms = spoken_ms(poll, received.refused)
        outgoing = [] if received.table.num_rows == 0 else self._by_partition(received.table, newest_ms)
        rows, dead, repeated = received.table.num_rows, received.dead_rows, received.repeated_rows
        counts = {READ: rows + dead + repeated, "rekeyed": rows, "dead_letter": dead, "duplicate": repeated}
        accounts = [Account(self.name, poll.topic, poll.partition, what, n) for what, n in counts.items()]
        progress = Progress(poll.last + 1)

        def commit() -> None:
            self._registry.commit(self.name, poll.partition, expected=expected, progress=progress, accounts=accounts)
            self._stored[poll.partition] = progress

        if self._dead_letter_topic is not None:
            outgoing += wire.letters_to_outgoing(self._dead_letter_topic, poll, received.dead, self.name)
        return Work(outgoing=outgoing, commit=commit, done=poll.last + 1)

    def _by_partition(self, rows: pa.Table, newest_ms: int | None) -> list[Outgoing]:
        """One message per partition of the re-keyed topic; a message is as old as the newest it was made from."""
        if self._versions is not None:
            lookup = self._versions.lookup
            rows = enriched(self._rekeyed, rows, lambda view, asked, time: lookup(view.name, asked, time))
        targets = partitions_of(rows.column(self._rekeyed.key), self._partitions)
        order = np.argsort(targets, kind="stable")
        ordered = with_source_positions(rows).take(pa.array(order))
        numbers, starts = np.unique(targets[order], return_index=True)
        lengths = np.diff(np.append(starts, len(order)))
        return [
            Outgoing(
                self._rekeyed.topic,
                wire.encode(ordered.slice(start, length)),
                partition=number,
                timestamp_ms=newest_ms,
            )
            for number, start, length in zip(numbers.tolist(), starts.tolist(), lengths.tolist(), strict=True)
        ]
