"""The labels of one request: when each happened, when it took effect, and what became of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.label_meanings import with_meanings
from dovetail.app.looking.one_request import OneRequest, snapshots_span
from dovetail.app.reports.archived import released_positions
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.batch.by_meaning import audit_by_meaning
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.finding import find_rows
from dovetail.platform.clock import moment_of
from dovetail.platform.rows.positions import own_position_columns
from dovetail.platform.stores.registry.store import DataFile

__all__ = ["LabelFate", "LabelFates"]

_COLUMNS = ("request_id", "item_id", "event_time", "_partition", "_offset", "_row")
#: Later than any offset: where the newest event time of a partition is put.
_AT_THE_END = 1 << 62
#: The outcome of a label that the archive does not tell of.
_NOT_ARCHIVED = "not archived yet"


class LabelFate(NamedTuple):
    """A label of the request: ``effective`` is when the stream knew of it, by which it counts or comes too late.

    ``outcome`` is the audit's (see :func:`~dovetail.joiners.batch.label_audit.audit_labels`), or ``not archived yet``.
    """

    kind: str
    item_id: str
    event_time: datetime
    effective: datetime
    partition: int
    offset: int
    row: int
    outcome: str


class _Place(NamedTuple):
    """A position in the log of a kind, or in that of snapshots."""

    kind: str
    partition: int
    offset: int
    row: int


class _LogFiles(NamedTuple):
    """The archived files of a kind, and the times (µs) of the first and last row of those of which they are noted."""

    files: Sequence[DataFile]
    spans: Mapping[str, tuple[int, int]]


class _Known(NamedTuple):
    """The item of a label, and its two times."""

    item_id: str
    event_time: datetime
    effective: datetime


class LabelFates:
    """Tells the fates of labels. Threads may share it.

    It remembers how new the events of those archived files are of which the registry has no times.
    """

    def __init__(self, project: Project, stores: Stores) -> None:
        self._project, self._stores = project, stores
        self._newest: dict[str, datetime | None] = {}
        self._lock = threading.Lock()

    def of(self, request: OneRequest) -> tuple[list[LabelFate], list[str]]:
        """The labels of a request by time, and the outcome of each of its snapshot rows, as the audit words it.

        The audit is that of the command, over the rows of this request and the clocks of the label streams.
        """
        stores = self._stores
        project, meanings = with_meanings(self._project, stores)
        config = project.config.labels
        logs: dict[str, pa.Table] = {}
        effective: dict[_Place, _Known] = {}
        for kind in config.streams:
            logs[kind], mine = self._log(kind, request)
            effective |= mine
        outcomes: dict[_Place, str] = {}
        if request.snapshots.num_rows:
            samples = request.samples if request.samples.num_rows else _no_samples(request.snapshots)
            audited = audit_by_meaning(
                request.snapshots,
                logs,
                samples,
                meanings,
                "",
                allowed_lateness_us=config.allowed_lateness,
                released=released_positions(project, stores, ""),
            )
            for row in audited.rows.to_pylist():
                outcomes[_Place(row["what"], row["partition"], row["offset"], row["row"])] = row["outcome"]
        fates = []
        for at, (item, event_time, known) in effective.items():
            outcome = outcomes.get(_doubled(at), "orphaned")
            fates.append(LabelFate(at.kind, item, event_time, known, at.partition, at.offset, at.row, outcome))
        fates += self._stored(request, effective)
        places = zip(*(request.snapshots.column(n).to_pylist() for n in _COLUMNS[3:]), strict=True) if outcomes else ()
        rows = [outcomes.get(_Place("snapshots", *place), "pending") for place in places]
        return sorted(fates, key=lambda fate: (fate.event_time, fate.kind)), rows

    def _stored(self, request: OneRequest, archived: Mapping[_Place, _Known]) -> list[LabelFate]:
        """The labels that the label store has of the request and its own log in the archive does not."""
        fates, since_us = [], self._since_us(request)
        for label in self._stores.labels.lookup([request.request_id]).to_pylist():
            place = _Place(label["kind"], label["partition"], label["offset"], label["row"])
            if place in archived:
                continue
            early = since_us is not None and label["event_time_us"] < since_us
            outcome = "early" if early else _NOT_ARCHIVED
            times = [moment_of(label[name]) for name in ("event_time_us", "effective_us")]
            fates.append(LabelFate(label["kind"], label["item_id"], times[0], times[1], *place[1:], outcome))
        return fates

    def _log(self, kind: str, request: OneRequest) -> tuple[pa.Table, dict[_Place, _Known]]:
        """The rows of the request in the log of ``kind``, between rows that say what each partition's clock was.

        And, by kind and position, each one's item, event time and effective time.
        """
        registry, offline = self._stores.registry, self._stores.offline
        files = _LogFiles(registry.files(kind), registry.file_spans(kind))
        schema = pa.schema([*self._project.label_schemas[kind].arrow, *own_position_columns()])
        read = DayFiles.archived(registry, offline, kind, "event_time")
        if kind in self._project.config.labels.attributed:
            schema = schema.insert(0, pa.field("request_id", pa.string()))
            return self._attributed_log(kind, request.request_id, files, schema)
        mine = find_rows(read, "request_id", [request.request_id], low_us=self._since_us(request)).rows
        rows: list[dict[str, Any]] = []
        effective: dict[_Place, _Known] = {}
        lateness = timedelta(microseconds=self._project.config.labels.allowed_lateness)
        for label in mine.select(list(_COLUMNS)).to_pylist() if mine.num_rows else ():
            before = self._clock(files, label["_partition"], label["_offset"], label["_row"])
            place = _Place(kind, label["_partition"], label["_offset"], label["_row"])
            doubled = _doubled(place).row
            if before is not None:
                rows.append(_row(None, None, before, label["_partition"], label["_offset"], doubled - 1))
            rows.append({**label, "_row": doubled})
            known = label["event_time"] if before is None else max(label["event_time"], before - lateness)
            effective[place] = _Known(str(label["item_id"]), label["event_time"], known)
        return self._as_log([*rows, *self._ends(files)], schema), effective

    def _since_us(self, request: OneRequest) -> int | None:
        """The time (µs) before which a label of the request is early: older files are not looked through for it."""
        first_us, _ = snapshots_span(request.snapshots)
        return None if first_us is None else first_us - self._project.config.labels.early_us

    def _attributed_log(
        self, kind: str, request_id: str, files: _LogFiles, schema: pa.Schema
    ) -> tuple[pa.Table, dict[_Place, _Known]]:
        """As :meth:`_log`, of labels that name no request: the label store knows which were given to this one.

        It forgets them when no sample can ask for them any more.
        """
        rows: list[dict[str, Any]] = []
        effective: dict[_Place, _Known] = {}
        lateness = timedelta(microseconds=self._project.config.labels.allowed_lateness)
        for label in self._stores.labels.lookup([request_id]).to_pylist():
            if label["kind"] != kind:
                continue
            place = _Place(kind, label["partition"], label["offset"], label["row"])
            doubled = _doubled(place).row
            happened, known = moment_of(label["event_time_us"]), moment_of(label["effective_us"])
            if known > happened:
                rows.append(_row(None, None, known + lateness, place.partition, place.offset, doubled - 1))
            item = pa.array([label["item_id"]]).cast(schema.field("item_id").type)[0].as_py()
            rows.append(_row(request_id, item, happened, place.partition, place.offset, doubled))
            effective[place] = _Known(label["item_id"], happened, known)
        return self._as_log([*rows, *self._ends(files)], schema), effective

    def _ends(self, files: _LogFiles) -> list[dict[str, Any]]:
        """A row at the end of each partition, which tells how far its clock has come."""
        found = []
        for partition in sorted({file.partition for file in files.files}):
            newest = self._clock(files, partition, _AT_THE_END, 0)
            if newest is not None:
                found.append(_row(None, None, newest, partition, _AT_THE_END, 0))
        return found

    @staticmethod
    def _as_log(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
        kept = pa.schema([schema.field(name).with_nullable(True) for name in _COLUMNS])
        return _with_columns(pa.Table.from_pylist(list(rows), schema=kept), schema)

    def _clock(self, files: _LogFiles, partition: int, offset: int, row: int) -> datetime | None:
        """The newest event time in a partition before a position; None where there is none."""
        found: list[datetime] = []
        for file in files.files:
            if file.partition != partition or file.first_offset > offset:
                continue
            if file.last_offset < offset:
                newest = self._newest_in(file.path, files.spans)
            else:
                rows = self._stores.offline.read(file.path, ["event_time", "_offset", "_row"])
                at, number = rows.column("_offset"), rows.column("_row")
                earlier = pc.or_(pc.less(at, offset), pc.and_(pc.equal(at, offset), pc.less(number, row)))
                newest = pc.max(rows.column("event_time").filter(earlier)).as_py()
            if newest is not None:
                found.append(newest)
        return max(found, default=None)

    def _newest_in(self, path: str, spans: Mapping[str, tuple[int, int]]) -> datetime | None:
        if path in spans:
            return moment_of(spans[path][1])
        if path not in self._newest:  # a file never changes
            newest = pc.max(self._stores.offline.read(path, ["event_time"]).column(0)).as_py()
            with self._lock:
                self._newest[path] = newest
        return self._newest[path]


def _doubled(place: _Place) -> _Place:
    """The position of a label in the log that is audited, where a row that tells the clock stands before it."""
    return place._replace(row=place.row * 2 + 1)


def _row(request: str | None, item: Any, time: datetime, partition: int, offset: int, row: int) -> dict[str, Any]:
    return dict(zip(_COLUMNS, (request, item, time, partition, offset, row), strict=True))


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema`` that it lacks, as NULL."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(table.num_rows, field.type))
    return table


def _no_samples(snapshots: pa.Table) -> pa.Table:
    types = {"label": pa.int8(), "emission": pa.string(), "_source_partition": pa.int32()}
    types |= {"_source_offset": pa.int64(), "_source_row": pa.int32()}
    keys = [snapshots.schema.field(name) for name in ("request_id", "item_id")]
    return pa.schema([*keys, *(pa.field(name, type_) for name, type_ in types.items())]).empty_table()
