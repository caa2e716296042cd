"""What is archived of a project, and what may come in from outside: datasets and intakes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa

from dovetail.features import Project
from dovetail.features.plan.definitions import BatchView, StreamView
from dovetail.features.serving.rekeying import rekeyed_schema
from dovetail.features.stored.fingerprints import record_of
from dovetail.features.stream.vetting import vet_events
from dovetail.joiners.label_agent import label_rows
from dovetail.platform.archive.writer import Dataset
from dovetail.platform.rows import wire
from dovetail.platform.rows.conversion import MAX_TIME_US, MIN_TIME_US
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.stage import Poll

__all__ = [
    "ANNOUNCED",
    "DEAD_LETTERS",
    "datasets",
    "label_intake",
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


def stream_intake(project: Project, name: str) -> Intake:
    """What a stream's agents take in. A re-keyed one's rows have been compared with their messages' time before."""
    stream = project.streams[name]
    vet = vet_events(stream, list(project.stream_views.values()))
    if stream.rekeyed_from is not None:
        return Intake(rekeyed_schema(stream.schema), stream.event_time, None, vet)
    return Intake(stream.schema, stream.event_time, stream.max_ahead_us, vet)


def request_intake(project: Project) -> Intake:
    """What the agents of requests take in."""
    return Intake(project.request, "request_time", project.config.request.max_ahead)


def label_intake(project: Project, kind: str) -> Intake:
    """What a label stream's agents take in."""
    return Intake(project.label_schemas[kind], "event_time", project.config.labels.max_ahead)


def samples_dataset(target: str) -> str:
    """Name of the archive of a target's samples; the primary target is the empty name."""
    return f"samples.{target}" if target else "samples"


def datasets(project: Project) -> list[Dataset]:
    """Every dataset that the archive agents write."""
    config = project.config
    topic, requests = config.request.topic, request_intake(project)
    found = [
        Dataset(
            name,
            stream.topic,
            stream.event_time,
            partial(_outside, stream_intake(project, name)),
            derived=stream.rekeyed_from is not None,
        )
        for name, stream in project.streams.items()
    ]
    found.append(Dataset("requests", topic, "request_time", partial(_outside, requests), derived=False))
    if config.labels.attributed:  # when requests were known is told by what was announced among them, too
        found.append(Dataset(ANNOUNCED, topic, "request_time", partial(_announced, requests), derived=False))
    found += [
        Dataset(kind, stream.topic or kind, "event_time", partial(_labels, label_intake(project, kind)), derived=False)
        for kind, stream in config.labels.streams.items()
    ]
    found.append(Dataset(DEAD_LETTERS, config.dead_letter_topic, "sent", _letters, derived=False))
    inside = {"snapshots": config.request.snapshots_topic}
    for target, declared in config.labels.every_target().items():
        inside[samples_dataset(target)] = declared.samples_topic
    for name, of_topic in inside.items():
        uses = _uses(project, batch=name != "snapshots")
        found.append(Dataset(name, of_topic, "request_time", _inside, derived=True, uses=uses))
    return found


def _uses(project: Project, *, batch: bool) -> dict[str, str]:
    """Fingerprints of what the serving feature set's columns are made with: snapshots have no batch features."""
    features = project.feature_set
    both: dict[str, StreamView | BatchView] = {**project.stream_views, **project.batch_views}
    views = [both[join.view] for join in features.joins if batch or join.kind == "streaming"]
    return {d.name: record_of(d).fingerprint for d in (features, *views)}


def _outside(intake: Intake, poll: Poll) -> tuple[pa.Table, int]:
    received = intake.read(poll)
    return received.table, received.dead_rows


def _announced(intake: Intake, poll: Poll) -> tuple[pa.Table, int]:
    """The watermarks announced among requests, as rows of their own; everything else is another dataset's."""
    watermarks = intake.read(poll).watermarks
    times = pa.array([time for _, time in watermarks], pa.int64()).cast(pa.timestamp("us"))
    offsets = [offset for offset, _ in watermarks]
    return _at_offsets({"request_time": times}, poll.partition, offsets), 0


def _labels(intake: Intake, poll: Poll) -> tuple[pa.Table, int]:
    received = intake.read(poll)
    return label_rows(received, poll.partition), received.dead_rows


def _letters(poll: Poll) -> tuple[pa.Table, int]:
    """Where each dead letter came from and why, without its value, which stays in the topic."""
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
    return _at_offsets(columns, poll.partition, poll.offsets.tolist()), 0


def _inside(poll: Poll) -> tuple[pa.Table, int]:
    return wire.decode_arrow(poll), 0


def _at_offsets(columns: dict[str, pa.Array], partition: int, offsets: list[int]) -> pa.Table:
    """One row per message, with own positions."""
    places = [[partition] * len(offsets), offsets, [0] * len(offsets)]
    types = [pa.int32(), pa.int64(), pa.int32()]
    own = {name: pa.array(p, t) for name, p, t in zip(OWN_COLUMNS, places, types, strict=True)}
    return pa.table({**columns, **own})
