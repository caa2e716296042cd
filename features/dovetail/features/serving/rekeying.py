"""Re-keying: the events of a stream, partitioned by another column, as a stream of their own.

A view's state is kept per key and source partition. Where events are keyed by user, each item's are spread over all
partitions, and a request reads as many states per item. Re-keyed by item they are one.

A re-keyed row carries the position in the stream that it was made from. It may be published again after a crash, by
rows in the order of their source; whoever reads the topic drops the repetition (:class:`SourceFilter`) and keeps what
it has seen of each source partition with its own position, in the same commit. Everything else goes by positions in the
re-keyed topic: state, what a snapshot has seen, the archive, batch. So stream and batch agree on it as on any stream.
A re-keyed stream may be re-keyed again; its agent drops repetitions as any other reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dovetail.features.at_events.kept_views import KeptViews
from dovetail.features.plan.definitions import BatchView, Stream
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.serving.enriched import enriched
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.partitions import partitions_of
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.intake import Intake, Received, spoken_ms
from dovetail.platform.rows.positions import (
    SOURCE_COLUMNS,
    Progress,
    SourceFilter,
    own_position_columns,
    with_source_positions,
)
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
    ``kept``: the streaming views that it is enriched from; needed where there are some. The row that is published has
    their values, so that every reader has the same for good. States are committed after rows are published, and before
    the position: a crash in between leaves rows that are not made again.
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
        kept: KeptViews | None = None,
        again: bool = False,
    ) -> None:
        """``again``: the stream that it is made of is re-keyed itself."""
        self._versions, self._kept, self._again = versions, kept, again
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
        if self._kept is not None:
            await asyncio.to_thread(self._kept.warm)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._stored = dict(self._registry.progress(self.name))
        if self._kept is not None:
            self._kept.resume()
        return {partition: self._start(partition, progress) for partition, progress in self._stored.items()}

    def _start(self, partition: int, published: Progress) -> int:
        """The first offset that is read: what is not published yet, or not included in the states."""
        if self._kept is None:
            return published.next_offset
        return min(published.next_offset, self._kept.included(partition).next_offset)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        before = self._stored.get(poll.partition, Progress())
        poll = poll.since(self._start(poll.partition, before))
        if len(poll):
            yield await compute(self._admitted, poll, before)

    def probe(self, poll: Poll) -> None:
        received = self._intake.read(poll)
        if not self._rekeyed.enriched:  # versions and states are made where they are kept, not in a child
            self._work(poll, received, Progress(poll.first))

    def _admitted(self, poll: Poll, before: Progress) -> Work:
        return self._work(poll, self._intake.admit(poll), before)

    def _work(self, poll: Poll, received: Received, before: Progress) -> Work:
        published, newest_ms = before.next_offset, spoken_ms(poll, received.refused)
        letters = [letter for letter in received.dead if letter.offset >= published]
        dead, repeated = sum(letter.rows for letter in letters), int((received.repeated >= published).sum())
        at_hand, seen = _since(received.table, published), SourceFilter(before.sources)
        events = self._new(at_hand, seen)
        counts = {
            READ: at_hand.num_rows + dead + repeated,
            "rekeyed": events.num_rows,
            "dead_letter": dead,
            "duplicate": repeated + at_hand.num_rows - events.num_rows,
        }
        made, keep = self._made(poll, received.table, events)
        made = _since(made, published)
        outgoing = [] if made.num_rows == 0 else self._by_partition(made, newest_ms)
        accounts = [Account(self.name, poll.topic, poll.partition, what, n) for what, n in counts.items()]
        progress = Progress(poll.last + 1, sources=seen.state)

        def commit() -> None:
            keep()
            if progress.next_offset > published:
                self._registry.commit(
                    self.name, poll.partition, expected=published, progress=progress, accounts=accounts
                )
                self._stored[poll.partition] = progress

        if self._dead_letter_topic is not None:
            outgoing += wire.letters_to_outgoing(self._dead_letter_topic, poll, letters, self.name)
        return Work(outgoing=outgoing, commit=commit, done=poll.last + 1)

    def _new(self, events: pa.Table, seen: SourceFilter) -> pa.Table:
        """Those of the ``events`` that are no repetitions."""
        return events.filter(pa.array(seen.admit(events))) if self._again and events.num_rows else events

    def _made(self, poll: Poll, given: pa.Table, events: pa.Table) -> tuple[pa.Table, Callable[[], None]]:
        """The rows that are made of what the states do not include, of all ``given``, and what commits the states.

        Where there are none, of the ``events`` that are not published.
        """
        values, keep = dict[str, pa.Table](), _nothing
        if self._kept is not None:
            included = self._kept.included(poll.partition)
            if included.next_offset > poll.last:
                return events.slice(0, 0), _nothing
            seen, first = SourceFilter(included.sources), max(poll.first, included.next_offset)
            events = self._new(_since(given, included.next_offset), seen)
            values, keep = self._kept.take_in(events, poll.partition, first, poll.last + 1, seen.state)
        if not events.num_rows or not self._rekeyed.enriched:
            return events, keep
        versions = self._versions

        def lookup(view: BatchView, rows: pa.Table, time_column: str) -> pa.Table:
            assert versions is not None  # noqa: S101 - given where there are batch views
            return versions.lookup(view.name, rows, time_column)

        return enriched(self._rekeyed, events, lookup, lambda view, _: values[view.name]), keep

    def _by_partition(self, rows: pa.Table, newest_ms: int | None) -> list[Outgoing]:
        """One message per partition of the re-keyed topic; a message is as old as the newest it was made from."""
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


def _nothing() -> None:
    """Commits nothing."""


def _since(rows: pa.Table, offset: int) -> pa.Table:
    """The rows of a partition, in its order, from an offset on."""
    return rows.slice(int(np.searchsorted(np.asarray(rows.column("_offset").to_numpy()), offset)))
