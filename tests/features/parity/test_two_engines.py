"""Stream, batch and plain DuckDB give one answer, for definitions from the whole language.

``HYPOTHESIS_PROFILE=nightly`` (``make nightly``) runs 2,000 generated cases of each property, the default 60.
"""

from __future__ import annotations

import re
from unittest import mock

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.batch import paired
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.duck.macros import MACROS
from dovetail.features.kernels.words import canonical_floats
from tests.features.parity.replay import bits, polls_of, streamed, values
from tests.features.parity.strategies import Case, cases, cuts


def agree(case: Case, one: pa.Table, other: pa.Table, rows: npt.NDArray[np.bool_] | None = None) -> None:
    assert one.schema == other.schema
    for name in one.column_names:
        left, right = one.column(name), other.column(name)
        if rows is not None:
            left, right = left.filter(pa.array(rows)), right.filter(pa.array(rows))
        assert bits(left) == bits(right), f"{name} of\n{case.sql}"


@given(case=cases(), data=st.data())
def test_stream_and_batch_agree_however_the_log_is_cut(case: Case, data: st.DataObject) -> None:
    polls = polls_of(case.events, data.draw(cuts(case.events.num_rows)))
    engine, states, watermark = streamed(case.view, polls)
    got = values(engine, states, watermark, case.probes)
    expected = evaluate_view(case.view, case.given(), case.probes).values
    agree(case, got.table, expected, got.answerable)
    # Where a poll ends leaves no trace, not even in the bytes.
    whole = streamed(case.view, [case.events])[1]
    assert {key: blob for key, blob in states.items() if blob} == {key: blob for key, blob in whole.items() if blob}


@given(case=cases(lateness=1_000), data=st.data())
def test_any_order_of_arrival_gives_the_same_values(case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(case.events.num_rows)))
    shuffled = case.events.take(pa.array(order, pa.int64()))
    engine, states, watermark = streamed(case.view, polls_of(shuffled, data.draw(cuts(case.events.num_rows))))
    got = values(engine, states, watermark, case.probes)
    assert got.answerable.all()
    agree(case, got.table, evaluate_view(case.view, case.given(), case.probes).values)


@given(case=cases(lateness=1_000), data=st.data())
def test_what_was_served_is_what_as_served_recomputes(case: Case, data: st.DataObject) -> None:
    seen_rows = data.draw(st.integers(0, case.events.num_rows // 2)) * 2
    served = case.events.slice(0, seen_rows)
    engine, states, watermark = streamed(case.view, polls_of(served, data.draw(cuts(seen_rows))))
    got = values(engine, states, watermark, case.probes)
    offset = seen_rows // 2  # two rows share an offset, whatever their partition
    sources = 3 * len(case.view.reads)
    seen = pa.array([[offset] * sources] * case.probes.num_rows, pa.list_(pa.int64()))
    probes = case.probes.append_column("seen", seen)
    recomputed = evaluate_view(case.view, case.given(), probes, visibility="as_served")
    agree(case, got.table, recomputed.values, got.answerable)


@given(case=cases())
def test_pairs_and_windows_agree(case: Case) -> None:
    found = []
    for pairs_per_row in (10**9, 1, 0):  # every key in pairs, some, none that has both probes and events
        with mock.patch.object(paired, "_PAIRS_PER_ROW", pairs_per_row):
            found.append(evaluate_view(case.view, case.given(), case.probes).values)
    agree(case, found[0], found[1])
    agree(case, found[0], found[2])


def _is_left_to_duckdb(expression: str) -> bool:
    """Whether plain DuckDB may give another value at an event's own row."""
    if re.search(r"(map_values|sum_each|avg_each)\(", expression):
        return True  # averages again, and sums of integers, which are HUGEINT inside lists: Arrow has them as doubles
    if "lag(" in expression:
        return True  # which at an event's own row looks at what was before it
    # Ties of what it orders by are left to chance.
    return re.search(r"(arg_m|max_by)", expression) is not None and "event_time" not in expression


@given(case=cases(ties=False))
def test_batch_and_the_definitions_own_text_agree(case: Case) -> None:
    """At an event's own time, plain DuckDB's row of that event is the value: its frame ends with the event. Strictly
    before the request, it is the value a microsecond later.

    Shared finishers (avg, deviations) are compared in ``test_finish.py``; a ROWS frame counts its own row, and EXCLUDE
    TIES leaves it in.
    """
    if "ROWS" in case.sql or "TIES" in case.sql:
        return
    keyed = case.events.filter(pc.and_(*(pc.is_valid(case.events.column(c)) for c in ("user_id", "shop"))))
    with duckdb.connect(config={"threads": 1}) as connection:
        for macro in MACROS:
            connection.execute(macro)
        for name, rows in case.given(keyed).items():  # SELECT * has the declared columns
            connection.register(name, rows.drop_columns(["_partition", "_offset", "_row"]))
        head = re.search(r"(?m)^SELECT user_id(, shop)?,$", case.sql)
        assert head is not None
        kept = "SELECT event_time AS request_time, user_id, shop,"
        text = case.sql[: head.start()] + kept + case.sql[head.end() :]
        plain = connection.sql(text).to_arrow_table()
    later = pc.add(plain.column("request_time").cast(pa.int64()), int(case.view.strictly_before))
    probes = plain.select(["user_id", "shop"]).append_column("request_time", later.cast(pa.timestamp("us")))
    batch = evaluate_view(case.view, case.given(keyed), probes).values
    for name in batch.column_names:
        expression = re.search(rf"(?s)(?:^|\n)\s*(?:SELECT .*?)?([^\n]*) AS {name}\b", case.sql)
        assert expression is not None
        if any(word in expression[1] for word in ("avg", "stddev", "var", "entropy", "skewness", "kurtosis")):
            continue
        if _is_left_to_duckdb(expression[1]):
            continue
        column = plain.column(name).combine_chunks()
        if pa.types.is_floating(column.type):
            column = canonical_floats(column)
        if not pa.types.is_nested(column.type):
            column = column.cast(batch.schema.field(name).type)
        elif pa.types.is_floating(getattr(column.type, "value_type", pa.null())):
            continue  # lists of doubles: both engines give one NaN and one zero, plain DuckDB what it met
        assert bits(pa.chunked_array([column])) == bits(batch.column(name)), f"{name} of\n{case.sql}"
