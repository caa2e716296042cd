"""What surrounds the engine in production, in a few lines: expression lane, store, plain-Python and DuckDB meaning."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.features.kernels import finish
from dovetail.features.kernels.words import canonical_floats, decimal_words
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stream.engine import Applied, StreamEngine, Values
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, prepare_rows, running_watermark
from dovetail.platform.duck.hermetic import hermetic_connection
from tests.features.stream.strategies import SCHEMA, WHERE

Row = dict[str, Any]
Probe = tuple[tuple[Any, ...], int]


def passes(condition: str | None, row: Row) -> bool:
    """What DuckDB answers for one of the conditions in ``strategies``; NULL is False."""
    if condition is None:
        return True
    if condition == "flag":
        return row["flag"] is True
    if condition == "small > 0":
        return bool(row["small"] is not None and row["small"] > 0)
    if condition == "site = 'a'":
        return bool(row["site"] == "a")
    assert condition == WHERE
    return bool(row["small"] is None or row["small"] != 3)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table of ``SCHEMA``."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


class Store:
    """An engine with an in-memory online store: states by ``(partition, key)``, watermarks by partition."""

    def __init__(self, view: StreamView) -> None:
        self.view = view
        self.engine = StreamEngine(view)
        self.states: dict[tuple[int, bytes], bytes] = {}
        self.watermarks: dict[int, int] = {}
        self.outcomes = [0, 0, 0]

    @property
    def watermark(self) -> int:
        """The highest over all partitions."""
        return max(self.watermarks.values(), default=NO_WATERMARK)

    def apply(self, partition: int, rows: Sequence[Row]) -> Applied:
        """One poll of one partition."""
        times = np.array([row["event_time"] for row in rows], dtype=np.int64)
        before, after = running_watermark(times, self.watermarks.get(partition, NO_WATERMARK))
        kept = [i for i, row in enumerate(rows) if passes(self.view.where, row)]
        table = table_of([rows[i] for i in kept])
        layout = self.engine.layout
        filters = [pa.array([passes(f, rows[i]) for i in kept], pa.bool_()) for f in layout.filters]
        keys, codes = encode_keys([table[column] for column in self.view.entity])
        prepared = prepare_rows(
            layout, codes, times[kept], before[kept], [table[argument] for argument in layout.arguments], filters
        )
        applied = self.engine.apply([self.states.get((partition, key)) for key in keys], prepared)
        assert len(kept) == applied.applied + applied.expired + applied.unused
        self.states.update({(partition, key): blob for key, blob in zip(keys, applied.blobs, strict=True)})
        self.watermarks[partition] = after
        self.outcomes = [a + b for a, b in zip(self.outcomes, applied[1:], strict=True)]
        return applied

    def values(self, probes: Sequence[Probe]) -> Values:
        """All probes at once."""
        columns = [
            pa.array([entity[i] for entity, _ in probes], SCHEMA.field(column).type)
            for i, column in enumerate(self.view.entity)
        ]
        keys, codes = encode_keys(columns)
        found = [(k, p) for k, key in enumerate(keys) for p in (2, 0, 1) if (p, key) in self.states]
        blobs = [self.states[p, keys[k]] for k, p in found]
        owners = np.array([k for k, _ in found], dtype=np.int32)
        times = np.array([time for _, time in probes], dtype=np.int64)
        return self.engine.values(blobs, owners, codes, times, self.watermark)


def bits(table: pa.Table) -> list[list[Any]]:
    """Rows of a table with floats as their bits, so that equal means bit-equal and NaN equals itself."""
    columns = [
        [None if v is None else struct.pack("<d", v) for v in column.to_pylist()]
        if pa.types.is_floating(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def reference(view: StreamView, rows: Iterable[Row], probes: Sequence[Probe]) -> pa.Table:
    """The meaning of the view in plain Python, on ints and Fractions."""
    rows = [row for row in rows if passes(view.where, row)]
    raw = {name: table_of(rows)[name].to_pylist() for name in SCHEMA.names}
    columns = []
    for aggregate in view.aggregates:
        window, input_ = view.windows[aggregate.window], view.inputs[aggregate.input]
        results = []
        for entity, time in probes:
            values = [
                None if input_.argument is None else raw[input_.argument][i]
                for i, row in enumerate(rows)
                if tuple(row[c] for c in view.entity) == entity
                and window.lower_bound(time) <= row["event_time"] <= time - window.end_us
                and passes(input_.filter, row)
                and (input_.argument is None or raw[input_.argument][i] is not None)
            ]
            results.append(_aggregate(aggregate.function, values))
        column = pa.array(results, aggregate.type)
        columns.append(canonical_floats(column) if pa.types.is_floating(column.type) else column)
    return pa.Table.from_arrays(columns, schema=view.output_schema)


def _aggregate(function: str, values: list[Any]) -> Any:
    if function == "count":
        return len(values)
    if not values:
        return None
    if function in ("sum", "avg"):
        total = sum((Fraction(v) for v in values), Fraction(0))
        if function == "avg":
            return float(total / len(values))
        return Decimal(total.numerator) / Decimal(total.denominator) if total.denominator != 1 else int(total)
    # NaN is above all numbers, as in DuckDB; v != v picks it out.
    return (min if function == "min" else max)(values, key=lambda v: (v != v, v if v == v else 0))


def duckdb_values(view: StreamView, rows: Sequence[Row], probes: Sequence[Probe]) -> pa.Table:
    """The meaning of the view in DuckDB: probes and events in one table, the view's windows over it, probes kept."""
    events = table_of(rows).append_column("probe", pa.nulls(len(rows), pa.int64()))
    asked = table_of(
        [dict(zip(view.entity, entity, strict=True)) | {"event_time": time} for entity, time in probes]
    ).append_column("probe", pa.array(range(len(probes)), pa.int64()))
    windows = ", ".join(
        f"{w.name} AS (PARTITION BY {', '.join(view.entity)} ORDER BY event_time RANGE BETWEEN "
        + (
            f"to_microseconds({w.size_us})"
            if w.step_us is None
            else f"hop(event_time, to_microseconds({w.size_us}), to_microseconds({w.step_us}))"
        )
        + f" PRECEDING AND to_microseconds({w.end_us}) PRECEDING)"
        for w in view.windows
    )
    columns = []
    for i, aggregate in enumerate(view.aggregates):
        input_ = view.inputs[aggregate.input]
        scale = input_.type.scale if isinstance(input_.type, pa.Decimal128Type) else 0
        over = (
            f"FILTER (WHERE probe IS NULL AND ({input_.filter or 'true'})) OVER {view.windows[aggregate.window].name}"
        )
        if aggregate.function == "count":
            columns.append(f"count({input_.argument or '*'}) {over} AS c{i}")
        elif aggregate.function in ("sum", "avg"):
            columns.append(f"CAST(sum({input_.argument}) {over} AS DECIMAL(38,{scale})) AS c{i}")
            columns.append(f"count({input_.argument}) {over} AS n{i}")
        else:
            columns.append(f"{aggregate.function}({input_.argument}) {over} AS c{i}")
    hop = "CREATE MACRO hop(ts, size, step) AS ts - time_bucket(step, ts - size)"
    with hermetic_connection(prepared=[hop]) as connection:
        connection.register("together", pa.concat_tables([events, asked]))
        answer = connection.sql(
            f"SELECT * FROM (SELECT probe, {', '.join(columns)} FROM together "
            f"WHERE probe IS NOT NULL OR ({view.where or 'true'}) WINDOW {windows}) "
            "WHERE probe IS NOT NULL ORDER BY probe"
        ).to_arrow_table()
    finished = []
    for i, aggregate in enumerate(view.aggregates):
        column = answer[f"c{i}"].combine_chunks()
        if aggregate.function == "avg":
            lo, hi = decimal_words(column)
            scale = column.type.scale
            column = finish.avg(lo, hi, answer[f"n{i}"].to_numpy(), scale)
        elif pa.types.is_floating(column.type):
            column = canonical_floats(column)
        finished.append(column)
    return pa.Table.from_arrays(finished, schema=view.output_schema)
