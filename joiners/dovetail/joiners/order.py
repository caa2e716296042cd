"""Order repair for those who train on samples: a bounded shuffle, with positives spread evenly.

Samples leave the join request by request, so neighbours look alike and positives come in clumps. Here they are read in
*blocks* of whole messages; each block leaves as one message, shuffled, its positives spread over it. A block ends with
the first message that brings it to ``block_rows`` samples or makes its request times span ``max_delay_us``. So a sample
waits for fewer than ``block_rows`` others and one message, and for no more than ``max_delay_us`` of event time and one
message; that is the declared bound.

Where blocks end depends on the messages of the samples topic and on nothing else: not on polls, restarts or clocks. The
state is the position of the block's beginning; a crash reads the block again and shuffles it the same way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.platform.rows.encodings.shared import as_dictionaries
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import Progress, SourceFilter, with_own_positions, with_source_positions
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry

__all__ = ["OrderStage", "spread_order"]


def spread_order(positive: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.int64]:
    """A permutation of n rows, int64 [n], that shuffles them and spreads the positives evenly.

    Positives and negatives are shuffled apart; the i-th of k gets the place (i + u) / k, u uniform in [0, 1), and all
    are sorted by place. So any stretch of 1/k of the block holds no more than two of the k positives. The same
    ``positive`` and ``seed`` (not negative) give the same permutation.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    place = np.empty(len(positive), dtype=np.float64)
    for group in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        if len(group):
            place[random.permutation(group)] = (np.arange(len(group)) + random.random(len(group))) / len(group)
    order: npt.NDArray[np.int64] = np.argsort(place, kind="stable").astype(np.int64)
    return order


@dataclass(slots=True)
class _Block:
    """The rows that one partition has read of its current block."""

    stored: Progress
    sources: SourceFilter
    next_offset: int
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    read: int = 0
    oldest_us: int = np.iinfo(np.int64).max
    newest_us: int = np.iinfo(np.int64).min


class OrderStage(Stage):
    """Reads the samples topic, writes ``ordered_topic`` with as many partitions.

    Holds at most one block per partition in memory. Outgoing rows have the end of their block as source position and,
    in ``_sample_offset`` and ``_sample_row``, where they were in the samples topic.

    Raises:
        ConfigError: ``block_rows`` is not from 1 to 500,000, or ``max_delay_us`` is below 1.
    """

    def __init__(
        self, topic: str, ordered_topic: str, registry: Registry, *, block_rows: int, max_delay_us: int, seed: int = 0
    ) -> None:
        if not 1 <= block_rows <= 500_000 or max_delay_us < 1:
            raise ConfigError(
                f"order repair of {topic}: block_rows must be from 1 to 500000 and max_delay positive, "
                f"got {block_rows} and {max_delay_us} us"
            )
        self.name = f"order.{topic}"
        self.topics = (topic,)
        self._ordered_topic = ordered_topic
        self._registry = registry
        self._block_rows = block_rows
        self._max_delay_us = max_delay_us
        self._seed = seed
        self._blocks: dict[int, _Block] = {}
        self._stored: Mapping[int, Progress] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        self._stored = self._registry.progress(self.name)
        return {partition: progress.next_offset for partition, progress in self._stored.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._blocks.pop(partition, None)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        if poll.partition not in self._blocks:
            stored = self._stored.get(poll.partition, Progress())
            self._blocks[poll.partition] = _Block(stored, SourceFilter(stored.sources), stored.next_offset)
        block = self._blocks[poll.partition]
        poll = poll.since(block.next_offset)
        if len(poll) == 0:
            return
        rows = await compute(wire.decode_arrow, poll)
        offsets = rows.column("_offset").to_numpy()
        for offset in poll.offsets.tolist():
            start, stop = np.searchsorted(offsets, (offset, offset + 1)).tolist()
            self._take(block, rows.slice(start, stop - start), offset)
            if block.rows >= self._block_rows or block.newest_us - block.oldest_us >= self._max_delay_us:
                work, block = await compute(self._flush, poll, block)
                self._blocks[poll.partition] = block
                yield work

    def _take(self, block: _Block, message: pa.Table, offset: int) -> None:
        fresh = message.filter(pa.array(block.sources.admit(message)))
        block.read += message.num_rows
        block.next_offset = offset + 1
        if fresh.num_rows:
            times = time_us(fresh, "request_time")
            block.oldest_us = min(block.oldest_us, int(times.min()))
            block.newest_us = max(block.newest_us, int(times.max()))
            block.tables.append(fresh)
            block.rows += fresh.num_rows

    def _flush(self, poll: Poll, block: _Block) -> tuple[Work, _Block]:
        """The block as a work, and the block after it."""
        rows = pa.concat_tables(block.tables, promote_options="permissive").combine_chunks()
        last = block.next_offset - 1
        positive = rows.column("label").to_numpy() == 1
        # One stream of random numbers per block, and the same one whenever the block is read again.
        seed = int(np.random.SeedSequence([self._seed, poll.partition, last]).generate_state(1)[0])
        ordered = decoded(as_dictionaries(rows).take(pa.array(spread_order(positive, seed))))
        for name in ("_offset", "_row"):
            ordered = ordered.append_column(f"_sample{name}", ordered.column(name))
        at = np.arange(block.rows, dtype=np.int32)
        end = np.full(block.rows, last, dtype=np.int64)
        ordered = with_source_positions(with_own_positions(ordered, poll.partition, end, at))
        progress = Progress(block.next_offset, block.newest_us, sources=block.sources.state)
        counts = {READ: block.read, "ordered": block.rows, "duplicate": block.read - block.rows}
        accounts = [Account(self.name, poll.topic, poll.partition, what, n) for what, n in counts.items()]

        def commit() -> None:
            expected = block.stored.next_offset
            self._registry.commit(self.name, poll.partition, expected=expected, progress=progress, accounts=accounts)

        outgoing = [Outgoing(self._ordered_topic, wire.encode(ordered), partition=poll.partition)]
        work = Work(outgoing=outgoing, commit=commit, done=block.next_offset)
        return work, _Block(progress, SourceFilter(progress.sources), block.next_offset)
