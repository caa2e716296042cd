"""When a label row may leave: when no snapshot that is still to be sampled can ask for it.

A snapshot of a request at T asks for labels that took effect from T on (they cannot precede it by more than clocks
disagree). So rows that took effect before the oldest snapshot still to come are of no use, and with ``retention`` as
the allowance for clocks that disagree and requests out of order, that is the boundary. How far the snapshot agents and
the sample agents have come is read from their stored positions, never from the wall clock: a backlog keeps its labels
for as long as its requests wait to be answered and its snapshots to be sampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from dovetail.joiners.sample_agent import Lane
from dovetail.joiners.watermark import PartitionClock
from dovetail.platform.rows.accounts import READ
from dovetail.platform.stores.labels import LabelStore

__all__ = ["LaneProgress", "boundary_us"]


class LaneProgress:
    """How far the sample agents have come, as the label store says: read once, when it is first asked for."""

    def __init__(self, store: LabelStore, lanes: Sequence[Lane], partitions: Iterable[int]) -> None:
        self.lanes = lanes
        self.partitions = tuple(partitions)
        # Positions first: what is forwarded after they were read is newer than what they say was released.
        self._progress = {lane.name: store.progress(lane.name) for lane in lanes}
        self._store = store

    def next_offset(self, lane: Lane, partition: int) -> int:
        """The offset a lane's agent reads next."""
        progress = self._progress[lane.name].get(partition)
        return progress.next_offset if progress else 0

    def released_us(self, lane: Lane, partition: int) -> int | None:
        """The newest request time (µs) it has released; None when it has released nothing."""
        progress = self._progress[lane.name].get(partition)
        return progress.watermark_us if progress else None

    def has_all(self, lane: Lane, before: Lane, partition: int) -> bool:
        """Whether it has read every row that the lane before it has forwarded."""
        rows = self._rows
        read = rows.get((lane.name, partition, READ), 0) - rows.get((lane.name, partition, "duplicate"), 0)
        return read == rows.get((f"{before.name}.held", partition, "forwarded"), 0)

    @cached_property
    def _rows(self) -> Mapping[tuple[str, int, str], int]:
        """The accounts by (stage, partition, outcome): read where a lane follows another, which most do not."""
        rows: Counter[tuple[str, int, str]] = Counter()
        for account in self._store.accounts():
            rows[account.stage, account.partition, account.outcome] += account.rows
        return rows


def boundary_us(
    requests: Iterable[PartitionClock],
    progress: LaneProgress,
    end_offset: Callable[[str, int], int | None],
    *,
    watermark_us: int | None,
    longest_us: int,
    retention_us: int,
) -> int | None:
    """Label rows that took effect before this (µs) may leave; None while that cannot be told.

    ``requests`` are the partitions of the requests as the snapshot agents have answered them, read before ``progress``
    was: what they answered since is in the snapshots, at the end of which no lane is yet. Whoever has read all there is
    holds nothing back beyond the label watermark itself. ``end_offset`` None counts as not read to the end.
    """
    if watermark_us is None:
        return None
    oldest = watermark_us - longest_us
    for partition_clock in requests:
        if partition_clock.at_end:
            continue
        answered = partition_clock.clock_us(0)
        if answered is None:
            return None
        oldest = min(oldest, answered)
    before: Lane | None = None
    for lane in progress.lanes:
        for partition in progress.partitions:
            if lane.number == 0 or before is None:
                end = end_offset(lane.topic, partition)
                at_end = end is not None and progress.next_offset(lane, partition) >= end
            else:
                at_end = progress.has_all(lane, before, partition)
            if at_end:
                continue
            released = progress.released_us(lane, partition)
            if released is None:
                return None
            oldest = min(oldest, released)
        before = lane
    return oldest - retention_us
