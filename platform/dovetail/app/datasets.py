"""The datasets that are archived of a project, and the intakes that check messages from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.plan.definitions import BatchView, StreamView
from dovetail.features.serving.rekeying import rekeyed_schema
from dovetail.features.stored.fingerprints import record_of
from dovetail.features.stream.vetting import vet_events
from dovetail.joiners.label_agent import label_rows
from dovetail.joiners.snapshots.shape import named_as_now
from dovetail.platform.archive.writer import Dataset, Decoded
from dovetail.platform.clock import Clock
from dovetail.platform.config.stream import EventIdsConfig
from dovetail.platform.rows import wire
from dovetail.platform.rows.conversion import MAX_TIME_US, MIN_TIME_US
from dovetail.platform.rows.encodings.shared import as_dictionaries, stored_as
from dovetail.platform.rows.identity import EventIds, EventMemory
from dovetail.platform.rows.intake import Intake, Received, repeated_candidates, unfit_items
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.stage import Poll

__all__ = [
    "ANNOUNCED",
    "DEAD_LETTERS",
    "OPEN",
    "Gate",
    "datasets",
    "event_ids",
    "label_intake",
    "newest_samples",
    "request_intake",
    "samples_dataset",
    "stream_intake",
]

#: The dataset of the watermarks announced among requests.
ANNOUNCED = "requests.announced"
#: The dataset that says where every dead letter came from.
DEAD_LETTERS = "dead_letters"
#: A message's timestamp may be anything, and one that is no time may be why it is a dead letter.
_YEARS_MS = (MIN_TIME_US // 1_000, MAX_TIME_US // 1_000)


class Gate(NamedTuple):
    """Parts that the intakes of topics from outside share: the refusals, the clock of agents that judge, seen ids."""

    refusals: Refusals | None = None
    clock: Clock | None = None
    memory: EventMemory | None = None


#: An intake that knows of no refusals and judges by the message alone.
OPEN = Gate()


def stream_intake(project: Project, name: str, gate: Gate = OPEN) -> Intake:
    """The intake of a stream, for its agents and its archive.

    Rows of a re-keyed stream are past the ``gate``: they went through that of the stream they were made from.
    """
    stream = project.streams[name]
    vet = vet_events(stream, list(project.stream_views.values()))
    if stream.rekeyed_from is not None:
        return Intake(rekeyed_schema(stream.schema), stream.event_time, None, vet)
    ids = event_ids(project.config.streams[name])
    return Intake(stream.schema, stream.event_time, stream.max_ahead_us, vet, ids=ids, **gate._asdict())


def request_intake(project: Project, gate: Gate = OPEN) -> Intake:
    """The intake of requests, for the snapshot agent and the archive."""
    declared = project.config.request
    known = gate._replace(memory=None)  # a request is known by its request_id, to the snapshot agent
    vet = _unfit_or_repeated if declared.unique_candidates else unfit_items
    return Intake(project.request, "request_time", declared.max_ahead, vet, **known._asdict())


def _unfit_or_repeated(requests: pa.Table) -> Mapping[int, str]:
    return {**repeated_candidates(requests), **unfit_items(requests)}


def label_intake(project: Project, kind: str, gate: Gate = OPEN) -> Intake:
    """The intake of a label stream, for its agent and its archive."""
    ahead, ids = project.config.labels.max_ahead, event_ids(project.config.labels.streams[kind])
    return Intake(project.label_schemas[kind], "event_time", ahead, unfit_items, ids=ids, **gate._asdict())


def event_ids(declared: EventIdsConfig) -> EventIds | None:
    """How the rows of a stream or kind of labels are known when they come again; None where they are not."""
    return None if declared.unique_within is None else EventIds(declared.event_id, declared.unique_within)


def newest_samples(stores: Stores, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The archived samples of the primary target, the newest file first; those of ``columns`` that the file has.

    Values that the candidates of a request share stand in dictionaries.

    Raises:
        StoreError: a registered file is gone or cannot be read.
    """
    files = stores.registry.files(samples_dataset(""))
    for file in sorted(files, key=lambda file: (file.day, file.last_offset), reverse=True):
        with stores.offline.open(file.path) as parquet:
            there = None if columns is None else stored_as(columns, parquet.schema_arrow.names)
            yield as_dictionaries(parquet.read(there))


def samples_dataset(target: str, scene: str = "") -> str:
    """Name of the archive of a target's samples; the primary target is the empty name, as is the scene without one."""
    return ".".join(filter(None, ("samples", scene, target)))


def datasets(project: Project, gate: Gate = OPEN) -> list[Dataset]:
    """Every dataset that the archive agents write. They leave the clock of ``gate`` to the other agents."""
    config, gate = project.config, gate._replace(clock=None)
    from_outside, found = partial(_from_outside, gate.refusals), []
    for name, stream in project.streams.items():
        intake = stream_intake(project, name, gate)
        views = [view for view in project.stream_views.values() if name in view.stream_names]
        keys = sorted({view.entity[0] for view in views})  # the events of a value are looked for by it
        if stream.rekeyed_from is not None:
            decode = partial(_rekeyed, intake)
            looked_up = {view.name: record_of(view).fingerprint for view in stream.enriched}
            derived = Dataset(name, stream.topic, stream.event_time, decode, derived=True, uses=looked_up, keys=keys)
            found.append(derived)
        else:
            found.append(from_outside(name, stream.topic, stream.event_time, _outside, intake, keys))
    found += _requests(project, gate)
    found += [
        from_outside(kind, stream.topic or kind, "event_time", _labels, label_intake(project, kind, gate))
        for kind, stream in config.labels.streams.items()
    ]
    found.append(Dataset(DEAD_LETTERS, config.dead_letter_topic, "sent", _letters, derived=False))
    found += _made(project)
    for scene in project.scenes[1:]:
        found += [*_requests(scene, gate), *_made(scene)]
    return found


def _from_outside(
    refusals: Refusals | None,
    name: str,
    topic: str,
    day_of: str,
    of: Callable[[Received, int], Decoded],
    by: Intake,
    keys: Sequence[str] = ("request_id",),
) -> Dataset:
    return Dataset(
        name,
        topic,
        day_of,
        lambda poll: of(by.admit(poll), poll.partition),
        derived=False,
        refusals=refusals,
        probe=lambda poll: of(by.read(poll), poll.partition),
        keys=keys,
    )


def _requests(project: Project, gate: Gate) -> list[Dataset]:
    """The requests of one scene, and what was announced among them."""
    config, intake = project.config, request_intake(project, gate)
    make = partial(_from_outside, gate.refusals, topic=config.request.topic, day_of="request_time", by=intake)
    found = [make(config.in_scene("requests"), of=_outside)]
    if config.labels.attributed:  # when requests were known is told by what was announced among them, too
        found.append(make(ANNOUNCED, of=_announced))
    return found


def _made(project: Project) -> list[Dataset]:
    """The snapshots and samples of one scene."""
    config, by_request = project.config, ("request_id",)
    snapshots, uses = config.request.snapshots_topic, _uses(project, batch=False)
    name = config.in_scene("snapshots")
    found = [Dataset(name, snapshots, "request_time", _snapshots, derived=True, uses=uses, keys=by_request)]
    for target, declared in config.labels.every_target().items():
        name, of_topic = samples_dataset(target, config.scene), declared.samples_topic
        uses = _uses(project, batch=True)
        found.append(Dataset(name, of_topic, "request_time", _inside, derived=True, uses=uses, keys=by_request))
    return found


def _uses(project: Project, *, batch: bool) -> dict[str, str]:
    """Fingerprints of the serving feature set and of its views; without batch views for snapshots, which lack them."""
    features = project.feature_set
    both: dict[str, StreamView | BatchView] = {**project.stream_views, **project.batch_views}
    views = [both[join.view] for join in features.joins if batch or join.kind == "streaming"]
    return {d.name: record_of(d).fingerprint for d in (features, *views)}


def _outside(received: Received, _partition: int) -> Decoded:
    return Decoded(received.table, received.dead_rows, received.repeated_rows)


def _rekeyed(intake: Intake, poll: Poll) -> Decoded:
    return _outside(intake.read(poll), poll.partition)


def _announced(received: Received, partition: int) -> Decoded:
    """The watermarks announced among requests, as rows of a dataset of their own."""
    times = pa.array([time for _, time in received.watermarks], pa.int64()).cast(pa.timestamp("us"))
    offsets = [offset for offset, _ in received.watermarks]
    return Decoded(_at_offsets({"request_time": times}, partition, offsets))


def _labels(received: Received, partition: int) -> Decoded:
    return Decoded(label_rows(received, partition), received.dead_rows, received.repeated_rows)


def _letters(poll: Poll) -> Decoded:
    """The origin and the reason of each dead letter, without its value, which stays in the topic."""
    said = [wire.letter_of(headers) for headers in poll.headers]
    columns = {
        "sent": pa.array(np.clip([letter.sent_ms for letter in said], *_YEARS_MS) * 1_000, pa.timestamp("us")),
        "stage": pa.array([letter.stage for letter in said], pa.string()),
        "topic": pa.array([letter.topic for letter in said], pa.string()),
        "partition": pa.array([letter.partition for letter in said], pa.int32()),
        "offset": pa.array([letter.offset for letter in said], pa.int64()),
        "rows": pa.array([letter.rows for letter in said], pa.int64()),
        "reason": pa.array([letter.reason for letter in said], pa.string()),
    }
    return Decoded(_at_offsets(columns, poll.partition, poll.offsets.tolist()))


def _inside(poll: Poll) -> Decoded:
    return Decoded(wire.decode_arrow(poll))


def _snapshots(poll: Poll) -> Decoded:
    return Decoded(wire.decode_arrow(poll, named_as_now))


def _at_offsets(columns: dict[str, pa.Array], partition: int, offsets: list[int]) -> pa.Table:
    """One row per message, with own positions."""
    places = [[partition] * len(offsets), offsets, [0] * len(offsets)]
    types = [pa.int32(), pa.int64(), pa.int32()]
    own = {name: pa.array(p, t) for name, p, t in zip(OWN_COLUMNS, places, types, strict=True)}
    return pa.table({**columns, **own})
