"""Views over several streams: replayed through the engine, asked of the project, and what is not given is said."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features.batch.relation import cleaned_rows
from dovetail.features.batch.streaming import evaluate_rows, evaluate_view
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import in_order
from dovetail.features.stream.rerun import replay_view
from dovetail.platform.errors import WireError
from tests.features.parity.replay import bits
from tests.features.parity.strategies import ORIGIN, UNIT, Case, Schema, by_stream, cases, view_of
from tests.generated import tries

SCHEMA = Schema({"c0": "BIGINT"})
VIEW = """
WITH a AS (SELECT user_id, shop, c0, event_time FROM events WHERE shop = 'number'),
     b AS (SELECT user_id, CAST(c0 AS INTEGER) AS n, event_time FROM a WHERE c0 < 100)
SELECT user_id, sum(n) OVER w AS total, last(n) OVER w AS latest
FROM (SELECT * FROM b UNION ALL SELECT user_id, -1, "at" FROM others)
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
"""


def log(rows: list[tuple[int, int, str, int]]) -> dict[str, pa.Table]:
    """Rows of (stream, time, shop, c0) in order of arrival, one offset each, in partition 0."""
    made = [
        {"user_id": 1, "shop": shop, "c0": c0, "event_time": ORIGIN + time * UNIT, "_partition": 0, "_offset": offset,
         "_row": 0, "_stream": stream}
        for offset, (stream, time, shop, c0) in enumerate(rows)
    ]  # fmt: skip
    types = {"_partition": pa.int32(), "_offset": pa.int64(), "_row": pa.int32(), "_stream": pa.int8()}
    schema = pa.schema([*SCHEMA.arrow, *(pa.field(name, type_) for name, type_ in types.items())])
    return by_stream(pa.Table.from_pylist(made, schema=schema))


def asked(times: list[int], seen: list[list[int]] | None = None) -> pa.Table:
    moments = pa.array([ORIGIN + time * UNIT for time in times], pa.timestamp("us"))
    table = pa.table({"user_id": [1] * len(times), "shop": [""] * len(times), "request_time": moments})
    return table if seen is None else table.append_column("seen", pa.array(seen, pa.list_(pa.int64())))


@pytest.fixture(scope="module")
def view() -> StreamView:
    return view_of(VIEW, SCHEMA, 10 * UNIT)


def test_an_outer_select_is_not_evaluated_for_what_an_inner_one_removed(view: StreamView) -> None:
    """The CAST has no value for 2**40, which the WHERE before it removes: in both engines, whatever DuckDB prefers."""
    events = log([(0, 0, "number", 7), (0, 1, "number", 2**40), (0, 2, "text", 2**40), (1, 2, "", 0)])
    probes = asked([0, 1, 2])
    batch = evaluate_view(view, events, probes).values
    assert batch.to_pydict() == {"total": [7, 7, 6], "latest": [7, 7, -1]}
    assert bits(replay_view(view, events, probes, None).values.column("total")) == bits(batch.column("total"))


def test_of_rows_at_one_time_the_later_select_is_the_later(view: StreamView) -> None:
    events = log([(1, 0, "", 0), (0, 0, "number", 5)])
    probes = asked([0])
    assert evaluate_view(view, events, probes).values.column("latest").to_pylist() == [-1]
    assert replay_view(view, events, probes, None).values.column("latest").to_pylist() == [-1]
    assert np.argsort(in_order(view, np.arange(6))).tolist() == [0, 2, 4, 1, 3, 5]


def test_what_each_stream_had_been_read_to_is_what_was_seen(view: StreamView) -> None:
    events = log([(0, 0, "number", 1), (1, 0, "", 0), (0, 1, "number", 2), (1, 1, "", 0), (0, 2, "number", 4)])
    seen = [[], [1, 0], [3, 2], [5, 2], [5, 4]]
    probes = asked([2] * 5, seen)
    batch = evaluate_view(view, events, probes, visibility="as_served").values
    assert batch.column("total").to_pylist() == [None, 1, 2, 6, 5]
    assert replay_view(view, events, probes, "seen").values.equals(batch)
    crossed = asked([2, 2], [[1, 4], [3, 0]])
    with pytest.raises(WireError, match=r"had seen positions \[\d, \d\], which is no prefix of the events"):
        replay_view(view, events, crossed, "seen")


def test_streams_that_are_not_given_are_named(view: StreamView) -> None:
    events = log([])
    with pytest.raises(WireError, match="view reads stream others, whose events are not given"):
        evaluate_view(view, {"events": events["events"]}, asked([0]))
    with pytest.raises(WireError, match=re.escape("view reads events, others; give events = {stream: table}")):
        replay_view(view, events["events"], asked([0]), None)
    with pytest.raises(WireError, match="events of others have no column 'at'; they have"):
        evaluate_view(view, {**events, "others": events["events"]}, asked([0]))


def test_a_row_without_value_says_of_which_view(view: StreamView) -> None:
    wrong = view_of(VIEW.replace("c0 < 100", "true"), SCHEMA)
    events = log([(0, 0, "number", 2**40)])
    with pytest.raises(WireError, match=r"sql/view\.sql:\d+: view has no value: Conversion Error"):
        cleaned_rows(wrong, 0, events["events"])
    with pytest.raises(WireError, match=r"sql/view\.sql:\d+: view has no value: Conversion Error"):
        evaluate_view(wrong, events, asked([0]))
    assert cleaned_rows(view, 0, events["events"]).num_rows == 0


@settings(max_examples=tries(15))
@given(case=cases(lateness=1_000), cut=st.integers(0, 24))
def test_rows_cleaned_in_parts_and_events_replayed_give_the_same(case: Case, cut: int) -> None:
    events = case.given()
    expected = evaluate_view(case.view, events, case.probes).values
    parts = [
        cleaned_rows(case.view, branch, part)
        for branch, read in enumerate(case.view.reads)
        for part in (events[read.stream.name].slice(0, cut), events[read.stream.name].slice(cut))
    ]
    names = [*case.view.stream.schema.arrow.names, "_partition", "_offset", "_row"]
    rows = pa.concat_tables([part.select(names) for part in parts], promote_options="permissive")
    for found in (
        evaluate_rows(case.view, rows, case.probes).values,
        replay_view(case.view, events, case.probes, None).values,
    ):
        for name in expected.column_names:
            assert bits(found.column(name)) == bits(expected.column(name)), f"{name} of\n{case.sql}"
