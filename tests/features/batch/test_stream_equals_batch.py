"""The stream engine, fed by the preparer in any cut, answers what DuckDB answers, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, prepare_rows, running_watermark

ORIGIN = 946_857_600_000_000
TIMES = st.integers(-40, 40).map(lambda half: ORIGIN + half * 500_000)
KEYS = st.sampled_from([None, 1, 2])
EVENT = st.fixed_dictionaries(
    {
        "user_id": KEYS,
        "item_id": KEYS,
        "kind": st.sampled_from(["a", "b", "z", None]),
        "price": st.none() | st.decimals(-1000, 1000, places=2),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
        "x": st.none() | st.floats() | st.sampled_from([0.0, -0.0]),
        "event_time": TIMES,
    }
)
PROBE = st.fixed_dictionaries({"user_id": KEYS, "item_id": KEYS, "request_time": TIMES})


def streamed(view: StreamView, batches: list[pa.Table], probes: pa.Table) -> pa.Table:
    engine, preparer = StreamEngine(view), StreamPreparer(view)
    states: dict[bytes, bytes] = {}
    watermark = NO_WATERMARK
    for events in batches:
        prepared = preparer.prepare(events)
        before, watermark = running_watermark(prepared.event_time, watermark)
        keys, codes = encode_keys(prepared.entity)
        times = prepared.event_time[prepared.kept]
        rows = prepare_rows(engine.layout, codes, times, before[prepared.kept], prepared.arguments, prepared.filters)
        applied = engine.apply([states.get(key) for key in keys], rows)
        states.update(zip(keys, applied.blobs, strict=True))
    wanted, codes = encode_keys([probes.column(column) for column in view.entity])
    owned = [index for index, key in enumerate(wanted) if key in states]
    times = np.asarray(probes.column("request_time").cast(pa.int64()).to_numpy(), dtype=np.int64)
    # The watermark is left out: no event is later than allowed_lateness, so everything is answerable.
    return engine.values(
        [states[wanted[index]] for index in owned], np.array(owned, dtype=np.int32), codes, times, NO_WATERMARK
    ).table


@given(
    batches=st.lists(st.lists(EVENT, max_size=8), max_size=4),
    probes=st.lists(PROBE, min_size=1, max_size=6),
    name=st.sampled_from(["acts", "users"]),
)
def test_stream_and_batch_agree(
    project: Project, batches: list[list[dict[str, Any]]], probes: list[dict[str, Any]], name: str
) -> None:
    view = project.stream_views[name]
    tables = [pa.Table.from_pylist(rows, schema=view.stream.schema.arrow) for rows in batches]
    events = pa.concat_tables([view.stream.schema.arrow.empty_table(), *tables])
    types = {"user_id": pa.int64(), "item_id": pa.int64(), "request_time": pa.timestamp("us")}
    asked = pa.Table.from_pylist(probes, schema=pa.schema(types))
    batch, stream = evaluate_view(view, events, asked).values, streamed(view, tables, asked)
    assert stream.schema == batch.schema
    for column in batch.column_names:
        one, other = batch.column(column).combine_chunks(), stream.column(column).combine_chunks()
        assert str(one.to_pylist()) == str(other.to_pylist()), column
