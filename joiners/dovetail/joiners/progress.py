"""How far labels and samples of a configured project have come, as their stores have it."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.joiners.labels import label_scope
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.samples import Lane, lanes_of
from dovetail.joiners.watermark import PartitionClock, silent, watermark
from dovetail.platform.config import Config, PolicyConfig
from dovetail.platform.stores.labels import LabelStore

__all__ = ["label_watermark", "retire_labels", "sample_lanes"]

#: An end that is never reached: of a partition that is not known to be read to its end.
_UNREAD = 1 << 62


def label_watermark(config: Config, store: LabelStore, end_offset: Callable[[str, int], int | None]) -> int | None:
    """The label watermark (µs) as the label store has it; ``end_offset`` None counts as not read to the end.

    The same whoever computes it: which partitions this worker reads itself plays no part.
    """
    progress = {
        (stream.topic or kind, number): reached.get(number)
        for kind, stream in config.labels.streams.items()
        for reached in (store.progress(label_scope(kind)),)
        for number in range(stream.partitions)
    }
    # Where a log ends matters for silent partitions only; it is asked after the positions have been read.
    idle_timeout_us = config.labels.idle_timeout
    quiet = silent(progress, idle_timeout_us)
    clocks = {
        partition: PartitionClock(reached, _end(end_offset, partition) if partition in quiet else _UNREAD)
        for partition, reached in progress.items()
    }
    return watermark(clocks, allowed_lateness_us=config.labels.allowed_lateness, idle_timeout_us=idle_timeout_us)


def _end(end_offset: Callable[[str, int], int | None], partition: tuple[str, int]) -> int:
    end = end_offset(*partition)
    return _UNREAD if end is None else end


def sample_lanes(config: Config) -> list[tuple[Lane, PolicyConfig]]:
    """The lanes of every target of the configuration."""
    snapshots = config.request.snapshots_topic
    return [
        (lane, declared)
        for target, declared in config.labels.every_target().items()
        for lane in lanes_of(target, snapshots, declared.held_topics)
    ]


def retire_labels(config: Config, store: LabelStore, end_offset: Callable[[str, int], int | None]) -> None:
    """Let the label rows go that no snapshot still to be sampled can ask for."""
    progress = LaneProgress(store, [lane for lane, _ in sample_lanes(config)], range(config.request.partitions))
    boundary = boundary_us(
        progress,
        end_offset,
        watermark_us=label_watermark(config, store, end_offset),
        longest_us=config.labels.longest_us,
        retention_us=config.labels.retention,
    )
    while boundary is not None and store.retire(boundary):
        pass
