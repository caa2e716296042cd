"""The gate of a project's topics from outside: what its intakes share, with the registry behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from dovetail.app.datasets import Gate
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.plan.sources import place_of
from dovetail.joiners.label_agent import label_scope
from dovetail.platform.clock import Clock
from dovetail.platform.rows.identity import EventMemory
from dovetail.platform.rows.positions import Progress
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.stores.registry.store import Registry

__all__ = ["gate_of", "opened_gate"]


def gate_of(registry: Registry, clock: Clock | None = None) -> Gate:
    """The gate with what ``registry`` knows of refused messages and of the ids of events."""
    refusals = Refusals(registry.refused, registry.refuse)
    return Gate(refusals, clock, EventMemory(registry.events, refusals))


def opened_gate(project: Project, stores: Stores, clock: Clock) -> Gate:
    """The gate of a worker. Where ids have not been looked at so far, they are from where the furthest reader is."""
    gate = gate_of(stores.registry, clock)
    assert gate.memory is not None  # noqa: S101 - gate_of gives one
    for name, declared in project.config.streams.items():
        if declared.unique_within is not None:
            gate.memory.begin(declared.topic or name, _furthest(_of_stream(project, stores, name)))
    for kind, label in project.config.labels.streams.items():
        if label.unique_within is not None:
            agents = [stores.labels.progress(label_scope(kind)), stores.registry.progress(f"archive.{kind}")]
            gate.memory.begin(label.topic or kind, _furthest(agents))
    return gate


def _of_stream(project: Project, stores: Stores, name: str) -> Iterable[Mapping[int, Progress]]:
    """How far the readers of a stream have come, by partition."""
    yield stores.registry.progress(f"archive.{name}")
    for rekeyed, declared in project.config.rekeyed.items():
        if declared.stream == name:
            yield stores.registry.progress(stage_name(rekeyed))
    for view in project.stream_views.values():
        if name in view.stream_names:
            for source, progress in stores.online.progress(view.name).items():
                place = place_of(view, source)
                if view.reads[place.branch].stream.name == name:
                    yield {place.partition: progress}


def _furthest(readers: Iterable[Mapping[int, Progress]]) -> Mapping[int, int]:
    offsets: defaultdict[int, int] = defaultdict(int)
    for reader in readers:
        for partition, progress in reader.items():
            offsets[partition] = max(offsets[partition], progress.next_offset)
    return offsets
