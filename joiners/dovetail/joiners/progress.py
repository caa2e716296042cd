"""How far labels and samples of a configured project have come, as their stores have it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.sample_agent import Lane, lanes_of
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE
from dovetail.joiners.watermark import PartitionClock, Partitions, watermark
from dovetail.platform.clock import Clock
from dovetail.platform.config.load import Config, PolicyConfig
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.registry.store import Registry

__all__ = [
    "EndOffset",
    "Retirement",
    "forget_requests",
    "label_clocks",
    "label_watermark",
    "newest_label_ms",
    "request_clocks",
    "request_newest_us",
    "request_watermark",
    "retire_labels",
    "sample_lanes",
]

#: The offset after the last message of (topic, partition); None where that is not known.
EndOffset = Callable[[str, int], int | None]


class _HasProgress(Protocol):
    def progress(self, scope: str) -> Mapping[int, Progress]: ...


def label_clocks(config: Config, store: _HasProgress, end_offset: EndOffset) -> Partitions:
    """The partitions of all label streams as the label ``store``, or a view of its progress, has them."""
    clocks = {}
    for kind, stream in config.labels.streams.items():
        progress = store.progress(label_scope(kind))
        topic = stream.topic or kind
        for number in range(stream.partitions):
            clocks[topic, number] = PartitionClock(progress.get(number), partial(_end, end_offset, topic, number))
    return clocks


def label_watermark(config: Config, store: _HasProgress) -> int | None:
    """The label watermark (µs) as the label ``store``, or a view of its progress, has it."""
    clocks = label_clocks(config, store, lambda _topic, _number: None)
    return watermark(clocks, allowed_lateness_us=config.labels.allowed_lateness)


def newest_label_ms(config: Config, store: LabelStore) -> int | None:
    """The newest message timestamp (ms) of any label stored."""
    progress = [p for kind in config.labels.streams for p in store.progress(label_scope(kind)).values()]
    return max((p.timestamp_ms for p in progress if p.timestamp_ms is not None), default=None)


def request_clocks(config: Config, registry: Registry, end_offset: EndOffset) -> Partitions:
    """The partitions of the requests as the registry has them."""
    progress, topic = registry.progress(config.in_scene(SNAPSHOT_SCOPE)), config.request.topic
    return {
        (topic, number): PartitionClock(progress.get(number), partial(_end, end_offset, topic, number))
        for number in range(config.request.partitions)
    }


def request_newest_us(config: Config, registry: Registry) -> int | None:
    """The newest request time (µs) that the snapshot agents have read in any partition, or was announced to them."""
    clocks = [clock.clock_us(0) for clock in request_clocks(config, registry, lambda _topic, _number: None).values()]
    return max((clock for clock in clocks if clock is not None), default=None)


def request_watermark(config: Config, registry: Registry) -> int | None:
    """The smallest clock of the request partitions (µs)."""
    clocks = request_clocks(config, registry, lambda _topic, _number: None)
    return watermark(clocks, allowed_lateness_us=config.request.allowed_lateness)


def forget_requests(config: Config, store: LabelStore, registry: Registry) -> None:
    """Let the requests go that no label still to be attributed can belong to.

    A label that is not too late for every sample happened no longer than the longest horizon before its partition's
    clock, and its request no longer than ``attribute_within`` before that. ``retention`` more is kept, so that a label
    store that has lost its last commits finds the requests again.
    """
    labels = config.labels
    within = labels.attributed
    clocks = {
        (kind, number): PartitionClock(store.progress(label_scope(kind)).get(number), lambda: 0)
        for kind in within
        for number in range(labels.streams[kind].partitions)
    }
    clock = watermark(clocks, allowed_lateness_us=labels.allowed_lateness)
    if clock is not None:
        registry.forget_asked(clock - labels.longest_us - max(within.values()) - labels.retention)


def sample_lanes(config: Config) -> list[tuple[Lane, PolicyConfig]]:
    """The lanes of every target of this scene."""
    snapshots = config.request.snapshots_topic
    return [
        (lane, declared)
        for target, declared in config.labels.every_target().items()
        for lane in lanes_of(target, snapshots, declared.held_topics, config.scene)
    ]


def retire_labels(config: Config, store: LabelStore, registry: Registry, end_offset: EndOffset) -> None:
    """Let the label rows go that no snapshot still to be taken or sampled can ask for, in any scene."""
    found = [_boundary_of(scene, store, registry, end_offset) for scene in config.every_scene()]
    known = [boundary for boundary in found if boundary is not None]
    while len(known) == len(found) and store.retire(min(known)):
        pass


def _boundary_of(config: Config, store: LabelStore, registry: Registry, end_offset: EndOffset) -> int | None:
    """Label rows that took effect before this (µs) no snapshot of this scene can ask for."""
    requests = request_clocks(config, registry, end_offset)
    progress = LaneProgress(store, [lane for lane, _ in sample_lanes(config)], range(config.request.partitions))
    return boundary_us(
        requests.values(),
        progress,
        end_offset,
        watermark_us=label_watermark(config, store),
        longest_us=config.labels.longest_us,
        retention_us=max(config.labels.retention, config.labels.furthest_early_us),
    )


class Retirement:
    """Retires labels (:func:`retire_labels`), however often it is called at most once in ``every_us``.

    Called in the committing threads of the sample agents. What is not retired now is by a later call: rows that may
    leave stay a second longer, and no commit pays for looking.
    """

    def __init__(self, retire: Callable[[], None], clock: Clock, every_us: int = 1_000_000) -> None:
        self._retire = retire
        self._clock = clock
        self._every_us = every_us
        self._lock = threading.Lock()
        self._last_us: int | None = None

    def __call__(self) -> None:
        """Retire what may leave, if it is time and nobody else does."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            now_us = self._clock.now_us()
            # A clock that was set back says nothing about how long it is: then it is long enough.
            if self._last_us is None or not 0 <= now_us - self._last_us < self._every_us:
                self._retire()
                self._last_us = now_us
        finally:
            self._lock.release()


def _end(end_offset: EndOffset, topic: str, number: int) -> int:
    """What is not known counts as not read to the end."""
    end = end_offset(topic, number)
    return (1 << 62) if end is None else end
