"""How far labels and samples of a configured project have come, as their stores have it."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.joiners.labels import label_scope
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.samples import Lane, lanes_of
from dovetail.joiners.watermark import PartitionClock, Partitions, watermark
from dovetail.platform.config import Config, PolicyConfig
from dovetail.platform.stores.labels import LabelStore

__all__ = ["EndOffset", "label_clocks", "label_watermark", "retire_labels", "sample_lanes"]

#: The offset after the last message of (topic, partition); None where that is not known.
EndOffset = Callable[[str, int], int | None]


def label_clocks(config: Config, store: LabelStore, end_offset: EndOffset) -> Partitions:
    """The partitions of all label streams as the label store has them."""
    clocks = {}
    for kind, stream in config.labels.streams.items():
        progress = store.progress(label_scope(kind))
        topic = stream.topic or kind
        for number in range(stream.partitions):
            clocks[topic, number] = PartitionClock(progress.get(number), _end(end_offset(topic, number)))
    return clocks


def label_watermark(config: Config, store: LabelStore) -> int | None:
    """The label watermark (µs) as the label store has it."""
    clocks = label_clocks(config, store, lambda _topic, _number: None)
    return watermark(clocks, allowed_lateness_us=config.labels.allowed_lateness)


def sample_lanes(config: Config) -> list[tuple[Lane, PolicyConfig]]:
    """The lanes of every target of the configuration."""
    snapshots = config.request.snapshots_topic
    return [
        (lane, declared)
        for target, declared in config.labels.every_target().items()
        for lane in lanes_of(target, snapshots, declared.held_topics)
    ]


def retire_labels(config: Config, store: LabelStore, end_offset: EndOffset) -> None:
    """Let the label rows go that no snapshot still to be sampled can ask for."""
    progress = LaneProgress(store, [lane for lane, _ in sample_lanes(config)], range(config.request.partitions))
    boundary = boundary_us(
        progress,
        end_offset,
        watermark_us=label_watermark(config, store),
        longest_us=config.labels.longest_us,
        retention_us=config.labels.retention,
    )
    while boundary is not None and store.retire(boundary):
        pass


def _end(offset: int | None) -> int:
    """What is not known counts as not read to the end."""
    return (1 << 62) if offset is None else offset
