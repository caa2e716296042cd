"""How far labels and samples of a configured project have come, as their stores have it."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.joiners.labels import label_scope
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.samples import Lane, lanes_of
from dovetail.joiners.watermark import PartitionClock, watermark
from dovetail.platform.config import Config, PolicyConfig
from dovetail.platform.stores.labels import LabelStore

__all__ = ["label_watermark", "retire_labels", "sample_lanes"]


def label_watermark(config: Config, store: LabelStore, end_offset: Callable[[str, int], int | None]) -> int | None:
    """The label watermark (µs) as the label store has it; ``end_offset`` None counts as not read to the end."""
    clocks = {}
    for kind, stream in config.labels.streams.items():
        progress = store.progress(label_scope(kind))
        topic = stream.topic or kind
        for number in range(stream.partitions):
            end = end_offset(topic, number)
            clocks[topic, number] = PartitionClock(progress.get(number), (1 << 62) if end is None else end)
    return watermark(
        clocks, allowed_lateness_us=config.labels.allowed_lateness, idle_timeout_us=config.labels.idle_timeout
    )


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
