"""Hypothesis strategies of the stream tests: views, event logs, arrival orders, cuts and probes.

Times are small multiples of a unit around an anchor, so that ties, bucket edges and window edges are common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from dovetail.features.plan.definitions import (
    Aggregate,
    AggregateFunction,
    Input,
    Stream,
    StreamView,
    Window,
)
from dovetail.platform.rows.schema import TableSchema

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64()),
        pa.field("site", pa.string()),
        pa.field("event_time", pa.timestamp("us"), nullable=False),
        pa.field("big", pa.int64()),
        pa.field("small", pa.int16()),
        pa.field("price", pa.decimal128(12, 2)),
        pa.field("wide", pa.decimal128(18, 0)),
        pa.field("score", pa.float64()),
        pa.field("ratio", pa.float32()),
        pa.field("flag", pa.bool_()),
        pa.field("day", pa.date32()),
        pa.field("seen", pa.timestamp("us")),
    ]
)
SUMMABLE = ("big", "small", "price", "wide")
ORDERED = (*SUMMABLE, "score", "ratio", "flag", "day", "seen")
FILTERS = ("flag", "small > 0", "site = 'a'")
WHERE = "small IS NULL OR small <> 3"

_ANCHORS = (0, 1_700_000_000_000_000, -62_000_000_000_000_000, 946_857_600_000_000)


def stream(lateness_us: int = 0) -> Stream:
    """The stream that all views here read."""
    schema = TableSchema("events", "sql/events.sql", 1, SCHEMA)
    return Stream(schema, "events", "event_time", "user_id", lateness_us, 0)


def view_of(
    windows: Sequence[Window],
    aggregates: Sequence[tuple[AggregateFunction, Input, int]],
    *,
    entity: tuple[str, ...] = ("user_id",),
    where: str | None = None,
    lateness_us: int = 0,
) -> StreamView:
    """A view of ``(function, input, window)`` triples; outputs are called ``f0, f1, …``."""
    inputs = tuple(dict.fromkeys(input_ for _, input_, _ in aggregates))
    outputs = tuple(
        Aggregate(f"f{i}", function, inputs.index(input_), window, _result(function, input_.type))
        for i, (function, input_, window) in enumerate(aggregates)
    )
    return StreamView(
        "activity", "sql/activity.sql", 3, "", stream(lateness_us), entity, where, tuple(windows), inputs, outputs
    )


def _result(function: AggregateFunction, argument: pa.DataType) -> pa.DataType:
    if function == "count":
        return pa.int64()
    if function == "avg":
        return pa.float64()
    if function == "sum":
        return pa.decimal128(38, argument.scale if isinstance(argument, pa.Decimal128Type) else 0)
    return argument


@dataclass(frozen=True)
class Case:
    """A view, what arrived where in which order and in which polls, and what was asked afterwards.

    ``arrivals`` are ``(partition, rows)`` polls in the order they were read; rows have the columns of ``SCHEMA``.
    ``probes`` are ``(entity, lag)``: the time asked for is the highest watermark minus allowed lateness plus ``lag``.
    """

    view: StreamView
    arrivals: list[tuple[int, list[dict[str, Any]]]]
    probes: list[tuple[tuple[Any, ...], int]]


_AGGREGATES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("count"), st.sampled_from((None, *ORDERED, "site"))),
    st.tuples(st.sampled_from(("sum", "avg")), st.sampled_from(SUMMABLE)),
    st.tuples(st.sampled_from(("min", "max")), st.sampled_from(ORDERED)),
)


@st.composite
def views(draw: st.DrawFn, unit: int = 1) -> StreamView:
    """Any view: plain and hop windows, one or two entity columns, filters, WHERE, lateness."""
    windows = [
        Window(f"w{i}", size * unit, None if step is None else step * unit, end_us=min(size, end) * unit)
        for i, (size, step, end) in enumerate(
            draw(
                st.lists(
                    st.tuples(
                        st.integers(0, 40), st.one_of(st.none(), st.integers(1, 12)), st.sampled_from((0, 0, 1, 5, 30))
                    ),
                    min_size=1,
                    max_size=4,
                )
            )
        )
    ]
    aggregates: list[tuple[AggregateFunction, Input, int]] = []
    for function, argument in draw(st.lists(_AGGREGATES, min_size=1, max_size=6)):
        filter_ = draw(st.sampled_from((None, *FILTERS)))
        type_ = pa.int64() if argument is None else SCHEMA.field(argument).type
        aggregates.append((function, Input(argument, filter_, type_), draw(st.integers(0, len(windows) - 1))))
    return view_of(
        windows,
        aggregates,
        entity=draw(st.sampled_from((("user_id",), ("user_id", "site")))),
        where=draw(st.sampled_from((None, WHERE))),
        lateness_us=draw(st.integers(0, 15)) * unit,
    )


def _floats(width: int) -> st.SearchStrategy[float]:
    special = st.sampled_from((math.nan, math.inf, -math.inf, 0.0, -0.0))
    return st.one_of(special, st.floats(width=width))  # type: ignore[arg-type]


_ROW: dict[str, st.SearchStrategy[Any]] = {
    "user_id": st.sampled_from((1, 1, 1, 2, -7, None)),
    "site": st.sampled_from(("a", "b", "", None)),
    "big": st.one_of(st.none(), st.integers(-9, 9), st.sampled_from((INT64_MIN, INT64_MAX, 2**53 + 1))),
    "small": st.one_of(st.none(), st.integers(-3, 3)),
    "price": st.one_of(st.none(), st.integers(-(10**12) + 1, 10**12 - 1).map(lambda c: Decimal(c).scaleb(-2))),
    "wide": st.one_of(st.none(), st.sampled_from((Decimal(10**18 - 1), Decimal(1 - 10**18), Decimal(1)))),
    "score": st.one_of(st.none(), _floats(64)),
    "ratio": st.one_of(st.none(), _floats(32)),
    "flag": st.one_of(st.none(), st.booleans()),
    "day": st.one_of(st.none(), st.integers(-40_000, 40_000)),
    "seen": st.one_of(st.none(), st.integers(-(10**15), 10**15)),
}


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 40) -> Case:
    """A view and a log of up to ``max_rows`` rows over up to three partitions, cut into polls anywhere."""
    unit = draw(st.sampled_from((1, 7, 60_000_000)))
    anchor = draw(st.sampled_from(_ANCHORS))
    view = draw(views(unit))
    spread = draw(st.integers(1, 120))
    drift = draw(st.integers(0, 6))
    rows = []
    for i in range(draw(st.integers(0, max_rows))):
        row = {name: draw(strategy) for name, strategy in _ROW.items()}
        row["event_time"] = anchor + (draw(st.integers(0, spread)) + i * drift) * unit
        rows.append(row)
    arrivals: list[tuple[int, list[dict[str, Any]]]] = []
    for row in rows:
        goes_on: bool = draw(st.booleans())
        if arrivals and goes_on:
            arrivals[-1][1].append(row)
        else:
            arrivals.append((draw(st.integers(0, 2)), [row]))
    entity = st.tuples(*(_ROW[column].filter(lambda part: part is not None) for column in view.entity))
    lags = st.integers(0, 80).map(lambda n: n * unit)
    probes = draw(st.lists(st.tuples(entity, lags), min_size=1, max_size=6))
    return Case(view, arrivals, probes)
