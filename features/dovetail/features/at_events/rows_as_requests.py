"""Rows of a re-keyed stream as requests for the values that they were enriched with: how these are checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.at_events.recomputed import by_place, seen_at
from dovetail.features.batch.one_view import EventLog
from dovetail.features.kernels.words import Words
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import FeatureColumn, FeatureSet, JoinedView, Stream, StreamView
from dovetail.platform.rows.positions import SOURCE_COLUMNS, pack, seen_column

__all__ = ["Newest", "Since", "as_feature_set", "as_requests", "views_at_events"]

_NEVER = np.iinfo(np.int64).max


def views_at_events(stream: Stream) -> dict[str, StreamView]:
    """The streaming views that a re-keyed stream is enriched from."""
    return {view.name: view for view in stream.enriched if isinstance(view, StreamView)}


def as_feature_set(stream: Stream) -> FeatureSet:
    """The columns of those views as features, for :func:`as_requests`."""
    views = views_at_events(stream).values()
    joins = tuple(JoinedView(view.name, "streaming", view.entity) for view in views)
    columns = tuple(
        FeatureColumn(
            name=field.name,
            sql=f"{quoted(view.name)}.{quoted(field.name)}",
            line=view.line,
            references=((view.name, field.name),),
            origin="streaming",
            lane="duckdb",
            type=field.type,
            resolved=quoted(f"{view.name}.{field.name}"),
        )
        for view in views
        for field in view.output_schema
    )
    listed = ", ".join(f"{column.sql} AS {quoted(column.name)}" for column in columns)
    joined = " ".join(
        f"LEFT JOIN {quoted(view.name)} USING ({', '.join(quoted(name) for name in view.entity)})" for view in views
    )
    keys = {name: type_ for view in views for name, type_ in zip(view.entity, view.entity_types, strict=True)}
    inputs = [
        *(pa.field(name, type_) for name, type_ in keys.items()),
        pa.field("request_time", pa.timestamp("us")),
        *(pa.field(f"{view.name}.{field.name}", field.type) for view in views for field in view.output_schema),
    ]
    file, sql = stream.schema.file, f"SELECT {listed} FROM request {joined}"
    return FeatureSet(stream.name, file, stream.schema.line, sql, joins, columns, pa.schema(inputs))


def as_requests(stream: Stream, rows: pa.Table) -> pa.Table:
    """Requests for the values of re-keyed ``rows``, one for each: key, time, and of each view what is visible.

    ``request_id`` is the row's place in the stream that it is made from, ``item_id`` its key.
    """
    views = views_at_events(stream)
    partitions, offsets, numbers = (np.asarray(rows.column(c).to_numpy(), dtype=np.int64) for c in SOURCE_COLUMNS)
    places = [f"{p}/{o}/{n}" for p, o, n in zip(partitions.tolist(), offsets.tolist(), numbers.tolist(), strict=True)]
    seen = seen_at(partitions, pack(offsets, numbers.astype(np.int32)))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: rows.column(name) for view in views.values() for name in view.entity
    }
    columns |= {"request_time": rows.column(stream.event_time).cast(pa.timestamp("us"))}
    columns |= {seen_column(name): seen for name in views}
    names = {"request_id": pa.array(places, pa.string()), "item_id": rows.column(stream.key).cast(pa.string())}
    return pa.table({**{name: made for name, made in names.items() if name not in columns}, **columns})


@dataclass(frozen=True, slots=True)
class Since:
    """The events of a log from an offset on, by partition: those that the states of a re-keyed stream know.

    Each has its place in its partition as its offset (:func:`by_place`).
    """

    log: EventLog
    begins: Mapping[int, int]

    def rows(self, low_us: int | None, high_us: int) -> int:
        """At least as many rows as have their time in ``[low, high]``."""
        return self.log.rows(low_us, high_us)

    def read(self, columns: Sequence[str] | None, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """Rows with ``low <= time <= high`` in bounded parts; all columns, or those named."""
        own = ["_partition", "_offset", "_row"]
        wanted = None if columns is None else list(dict.fromkeys([*columns, *own]))
        for part in self.log.read(wanted, low_us, high_us):
            kept = self.known(part)
            if kept.num_rows:
                yield kept if columns is None else kept.select(list(dict.fromkeys(columns)))

    def known(self, events: pa.Table) -> pa.Table:
        """Those of the ``events``, which have positions, that are from their partition's beginning on, by place."""
        if not events.num_rows:
            return events
        partitions, offsets = (np.asarray(events.column(name).to_numpy()) for name in ("_partition", "_offset"))
        begins = np.array([self.begins.get(p, 0) for p in range(int(partitions.max()) + 1)])
        return by_place(events.filter(pa.array(offsets >= begins[partitions])))


class Newest:
    """The newest event time of each partition up to a place, of ``events`` that have their places as offsets.

    ``later`` is the first place at which a partition has an event that is not among them, by partition.
    """

    def __init__(self, events: Iterable[pa.Table], time_column: str, later: Mapping[int, int]) -> None:
        self._later, self._times = later, dict[int, tuple[Words, Words]]()
        found: list[tuple[Words, Words, Words]] = []
        for part in events:
            given = part.column(time_column).cast(pa.timestamp("us")).cast(pa.int64())
            own = (part.column(name) for name in ("_partition", "_offset"))
            partitions, offsets, times = (np.asarray(c.to_numpy(), dtype=np.int64) for c in (*own, given))
            found.append((partitions, offsets, times))
        if not found:
            return
        partitions, offsets, times = (np.concatenate(column) for column in zip(*found, strict=True))
        for partition in np.unique(partitions).tolist():
            mine = np.flatnonzero(partitions == partition)
            mine = mine[np.argsort(offsets[mine], kind="stable")]
            self._times[partition] = offsets[mine], np.maximum.accumulate(times[mine])

    def too_old(self, partitions: Words, places: Words, times: Words, lateness_us: int) -> npt.NDArray[np.bool_]:
        """A mask of rows, at these places, that are too old to have a value."""
        old = np.zeros(len(times), dtype=np.bool_)
        for partition in np.unique(partitions).tolist():
            mine = np.flatnonzero(partitions == partition)
            old[mine] = places[mine] >= self._later.get(partition, _NEVER)
            if partition in self._times:
                known, newest = self._times[partition]
                at = np.searchsorted(known, places[mine], side="right") - 1
                old[mine] |= (at >= 0) & (times[mine] < newest[at] - lateness_us)
        return old
