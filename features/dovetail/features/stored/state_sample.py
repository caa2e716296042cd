"""Stored state against the archive: a sample of keys, recomputed in DuckDB from just the events that it includes.

The state's positions say which events those are. At the newest event time of the state, the value that it gives must be
the value of those events, bit for bit. Keys are taken from both sides: some that have a state, and those of archived
events, so that what is missing is found as well as what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.relation import cleaned_rows
from dovetail.features.batch.streaming import evaluate_rows, positions_read
from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.stored_states import read_states, stored_keys
from dovetail.features.stored.consistency import equal_bits
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import decode_keys, encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore

__all__ = ["StateSample", "sample_state"]

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class StateSample:
    """Keys of a view that were compared, how many are equal in every value, and some that are not, in words."""

    view: str
    keys: int
    equal: int
    different: Sequence[str] = ()


def sample_state(view: StreamView, store: OnlineStore, events: Mapping[str, DayFiles], keys: int) -> StateSample:
    """Compare about ``keys`` keys of ``view`` with its archived ``events``, by stream.

    The archives must reach up to the state's positions. Each is read once, as far back as the view's windows go.

    Raises:
        DamagedState: a state cannot be read.
        WireError: an archive has columns that were declared otherwise, or an event without value.
    """
    progress = store.progress(view.name)
    marks = [at.watermark_us for at in progress.values() if at.watermark_us is not None]
    if not marks:
        return StateSample(view.name, 0, 0)
    newest = max(marks)
    rows, engine = _Rows(view, events, progress), StreamEngine(view)
    chosen = sorted({*stored_keys(store, engine, keys), *rows.newest_keys(newest, keys)})[: 2 * keys]
    if not chosen:
        return StateSample(view.name, 0, 0)
    columns = decode_keys(chosen, view.entity_types)
    encoded, codes = encode_keys(columns)
    state = read_states(store, {view.name: engine}, {view.name: encoded})[view.name]
    times = np.full(len(codes), newest, dtype=np.int64)
    stored = engine.values(state.blobs, state.key_index, codes, times, NO_WATERMARK).table
    probes = pa.table(
        {
            **dict(zip(view.entity, columns, strict=True)),
            "request_time": pa.array(times).cast(pa.timestamp("us")),
            "seen": pa.array([rows.seen.tolist()] * len(codes), pa.list_(pa.int64())),
        }
    )
    parts = list(rows.of(frozenset(encoded), earliest_read(view, newest), newest))
    made = evaluate_rows(
        view, pa.concat_tables(parts, promote_options="permissive"), probes, visibility="as_served"
    ).values
    return _compared(view, columns, stored, made)


class _Rows:
    """The archived rows of a view that its state includes."""

    def __init__(self, view: StreamView, events: Mapping[str, DayFiles], progress: Mapping[int, Progress]) -> None:
        self._view, self._events = view, events
        self.seen = np.zeros(max(progress, default=-1) + 1, dtype=np.int64)
        for source, at in progress.items():
            self.seen[source] = at.next_offset

    def newest_keys(self, until_us: int, count: int) -> list[bytes]:
        """Keys of events of the newest day that has some, spread over it."""
        for stretch in (DAY_US, 32 * DAY_US, None):
            low = None if stretch is None else until_us - stretch
            found: dict[bytes, None] = {}
            for part in self._read(low, until_us):
                distinct, codes = encode_keys([part.column(name) for name in self._view.entity])
                there = np.unique(codes[codes >= 0])
                picked = there[:: max(1, len(there) // count)]
                found |= dict.fromkeys(distinct[code] for code in picked.tolist())
            if found:
                return list(found)[:: max(1, len(found) // count)]
        return []

    def of(self, keys: frozenset[bytes], low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """The rows of ``keys``, in bounded parts, at least one; sources for partitions."""
        wanted = [*self._view.stream.schema.arrow.names, *positions_read(self._view, "as_served")]
        for part in self._read(low_us, high_us):
            distinct, codes = encode_keys([part.column(name) for name in self._view.entity])
            mine = np.array([key in keys for key in distinct] + [False], dtype=np.bool_)
            yield part.filter(pa.array(mine[codes])).select(wanted)
        yield self._nothing().select(wanted)

    def _read(self, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        positions = ["_partition", "_offset", "_row"]
        for number, branch in enumerate(self._view.reads):
            names = [*branch.stream.schema.arrow.names, *positions]
            for part in self._events[branch.stream.name].read(names, low_us, high_us):
                rows = cleaned_rows(self._view, number, part)
                sources = np.asarray(rows.column("_partition").to_numpy(), dtype=np.int64)
                offsets = np.asarray(rows.column("_offset").to_numpy(), dtype=np.int64)
                yield rows.filter(pa.array(offsets < self._seen_of(sources)))

    def _seen_of(self, sources: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        known = sources < len(self.seen)
        found = np.zeros(len(sources), dtype=np.int64)
        found[known] = self.seen[sources[known]]
        return found

    def _nothing(self) -> pa.Table:
        own = [pa.field("_partition", pa.int32()), pa.field("_offset", pa.int64()), pa.field("_row", pa.int32())]
        return pa.schema([*self._view.stream.schema.arrow, *own]).empty_table()


def _compared(view: StreamView, keys: Sequence[pa.Array], stored: pa.Table, made: pa.Table) -> StateSample:
    same = np.ones(stored.num_rows, dtype=np.bool_)
    different: list[str] = []
    for name in view.output_schema.names:
        equal = equal_bits(stored.column(name), made.column(name))
        for row in np.flatnonzero(~equal & same).tolist():
            key = ", ".join(f"{column} = {part[row].as_py()!r}" for column, part in zip(view.entity, keys, strict=True))
            values = f"{stored.column(name)[row].as_py()!r}, of its events {made.column(name)[row].as_py()!r}"
            different.append(f"{key}: {name} is {values}")
        same &= equal
    return StateSample(view.name, len(same), int(same.sum()), different[:_EXAMPLES])
