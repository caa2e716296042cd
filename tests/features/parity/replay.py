"""The stream engine over a log: any cut into polls, any order of arrival, values at the end."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import Place, source_of
from dovetail.features.stream.engine import StreamEngine, Values
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, RowOrigin, positions_of, prepare_rows, running_watermark
from tests.features.parity.strategies import by_stream

States = dict[tuple[bytes, int], bytes]


def polls_of(events: pa.Table, cuts: Sequence[int]) -> list[pa.Table]:
    """``events`` cut at the given rows, ascending."""
    edges = [0, *cuts, events.num_rows]
    return [events.slice(a, b - a) for a, b in itertools.pairwise(edges)]


def streamed(view: StreamView, polls: Sequence[pa.Table]) -> tuple[StreamEngine, States, int]:
    """The engine, the states after ``polls`` (each of any streams and partitions) and the highest watermark."""
    engine = StreamEngine(view)
    preparers = [StreamPreparer(view, branch) for branch in range(len(view.reads))]
    states: States = {}
    watermarks: dict[int, int] = {}
    for poll in polls:
        arrived = by_stream(poll)
        for branch, read in enumerate(view.reads):
            events = arrived[read.stream.name]
            partitions = events.column("_partition").to_numpy()
            for partition in np.unique(partitions).tolist():
                rows = events.take(pa.array(np.flatnonzero(partitions == partition)))
                source = source_of(view, Place(branch, partition))
                prepared = preparers[branch].prepare(rows)
                before, watermarks[source] = running_watermark(
                    prepared.event_time, watermarks.get(source, NO_WATERMARK)
                )
                keys, codes = encode_keys(prepared.entity)
                ready = prepare_rows(
                    engine.layout, codes, prepared.event_time[prepared.kept], before[prepared.kept], prepared.arguments,
                    prepared.filters, engine.collections, RowOrigin(source, positions_of(rows)[prepared.kept]),
                )  # fmt: skip
                applied = engine.apply([states.get((key, source)) for key in keys], ready)
                assert len(prepared.kept) == applied.applied + applied.expired + applied.unused
                states.update({(key, source): blob for key, blob in zip(keys, applied.blobs, strict=True)})
    return engine, states, max(watermarks.values(), default=NO_WATERMARK)


def values(engine: StreamEngine, states: States, watermark: int, probes: pa.Table) -> Values:
    """The view's values at ``probes``."""
    keys, codes = encode_keys([probes.column(column) for column in engine.view.entity])
    held = sorted((keys.index(key), partition, blob) for (key, partition), blob in states.items() if key in keys)
    times = np.asarray(probes.column("request_time").cast(pa.int64()).to_numpy(), dtype=np.int64)
    owners = np.array([key for key, _, _ in held], dtype=np.int32)
    return engine.values([blob for _, _, blob in held], owners, codes, times, watermark)


def bits(column: pa.ChunkedArray) -> list[Any]:
    """Values that are equal exactly where their bits are."""

    def of(value: Any) -> Any:
        if isinstance(value, float):
            return struct.pack("<d", value)
        if isinstance(value, dict):
            return {name: of(part) for name, part in value.items()}
        return [of(part) for part in value] if isinstance(value, list | tuple) else value

    return [of(value) for value in column.to_pylist()]
