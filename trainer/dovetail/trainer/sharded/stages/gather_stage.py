"""Samples of all partitions gathered to batches on one topic, so that their order and their cuts stand in a log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from itertools import pairwise

import pyarrow as pa

from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.platform.rows.positions import SOURCE_COLUMNS, Progress, SourceFilter, with_source_positions
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.training import DUPLICATE, TRAINED

__all__ = ["GatherStage"]


class GatherStage(Stage):
    """Reads samples and hands them to the splitter, each exactly once for who drops repetitions by source position.

    A poll becomes messages of at most ``sharding.batch_rows`` rows, as even as can be. How polls are cut is a matter of
    time, and after a crash they may be cut otherwise; a row that comes again is behind one at least as high in its
    partition, and is dropped. What is left is the same log for everybody who reads it, whenever.
    """

    name = "trainer"
    by_partition = True

    def __init__(self, samples: SampleTopic, sharding: Sharding, registry: Registry) -> None:
        self.topics = (samples.topic,)
        self._samples = samples
        self._sharding = sharding
        self._registry = registry
        self._known: dict[int, Progress] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        self._known = dict(self._registry.progress(self._sharding.books))
        return {partition: progress.next_offset for partition, progress in self._known.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._known.pop(partition, None)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Gather the rows of ``poll`` that are new.

        :raises WireError: a message is no table of samples.
        """
        stored = self._known.get(poll.partition, Progress())
        poll = poll.since(stored.next_offset)
        if len(poll):
            outgoing, progress, accounts = await compute(self._gather, poll, stored)

            def commit() -> None:
                self._registry.commit(
                    self._sharding.books,
                    poll.partition,
                    expected=stored.next_offset,
                    progress=progress,
                    accounts=accounts,
                )
                self._known[poll.partition] = progress

            yield Work(outgoing=outgoing, commit=commit, done=progress.next_offset)

    def _gather(self, poll: Poll, stored: Progress) -> tuple[list[Outgoing], Progress, list[Account]]:
        rows = self._samples.decode(poll)
        sources = SourceFilter(stored.sources)
        fresh = with_source_positions(self._needed(rows.filter(pa.array(sources.admit(rows)))))
        count = fresh.num_rows
        batches = -(-count // self._sharding.batch_rows)
        ends = [count * number // batches for number in range(batches + 1)] if batches else [0]
        outgoing = [
            Outgoing(self._sharding.topics.batches, wire.encode(fresh.slice(start, end - start)), partition=0)
            for start, end in pairwise(ends)
        ]
        counts = {READ: rows.num_rows, TRAINED: count, DUPLICATE: rows.num_rows - count}
        accounts = [
            Account(self._sharding.books, poll.topic, poll.partition, outcome, n) for outcome, n in counts.items()
        ]
        return outgoing, Progress(poll.last + 1, sources=sources.state), accounts

    def _needed(self, rows: pa.Table) -> pa.Table:
        """The columns that are trained on, and positions."""
        plain = decoded(rows)
        if self._samples.schema is None:
            return plain
        needed = {*self._samples.schema.names, *SOURCE_COLUMNS, "_partition", "_offset", "_row"}
        return plain.select([name for name in plain.column_names if name in needed])
