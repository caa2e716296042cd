"""Lists that events bring: elements counted, arrays added up, the same in both engines and as plain DuckDB has it."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.duck.binding import Binder
from dovetail.features.duck.macros import MACROS
from dovetail.features.language.source import Source
from dovetail.features.language.streaming_views import parse_stream_view
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.stream.rerun import ViewReplay, with_positions
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema
from tests.features.parity.replay import bits
from tests.generated import tries

SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "tags": pa.list_(pa.string()),
        "codes": pa.list_(pa.int16()),
        "v": pa.list_(pa.float32()),
        "event_time": pa.timestamp("us"),
    }
)
COLUMNS = """histogram_each(list(tags) OVER w) AS tags,
histogram_each(list(codes) FILTER (WHERE len(tags) > 0) OVER w) AS codes,
top_k(histogram_each(list(tags) OVER w), 2) AS usual, sum_each(list(CAST(v AS DECIMAL(9,4)[3])) OVER w) AS total,
avg_each(list(CAST(v AS DECIMAL(9,4)[3])) FILTER (WHERE tags IS NOT NULL) OVER w) AS mean"""
FRAMES = (
    "RANGE BETWEEN INTERVAL 5 SECOND PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN hop(event_time, INTERVAL 6 SECOND, INTERVAL 2 SECOND) PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
)


def view(columns: str, frame: str = FRAMES[0]) -> StreamView:
    stream = Stream(TableSchema("events", "sql/events.sql", 1, SCHEMA), "events", "event_time", "user_id", 10**9, 0)
    sql = f"SELECT user_id, {columns}\nFROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})"
    return parse_stream_view("view", Source("sql/view.sql", sql), {"events": stream}, Binder({"events": SCHEMA}))


EVENT = st.fixed_dictionaries(
    {
        "user_id": st.integers(1, 2),
        "tags": st.none() | st.lists(st.none() | st.sampled_from("abc"), max_size=4),
        "codes": st.none() | st.lists(st.none() | st.integers(-2, 2), max_size=3),
        "v": st.none() | st.lists(st.none() | st.sampled_from([0.1, 0.25, -3.0]), min_size=3, max_size=3),
        "event_time": st.integers(0, 12).map(lambda second: second * 1_000_000),
    }
)


@settings(max_examples=tries(25), deadline=None)
@given(events=st.lists(EVENT, max_size=12), frame=st.sampled_from(FRAMES), cut=st.integers(0, 12))
def test_both_engines_and_plain_duckdb_agree(events: list[dict[str, Any]], frame: str, cut: int) -> None:
    wanted, log = view(COLUMNS, frame), with_positions(pa.Table.from_pylist(events, schema=SCHEMA))
    times = pa.array([second * 1_000_000 for second in (0, 4, 9, 30)] * 2, pa.timestamp("us"))
    asked = pa.table({"user_id": [1] * 4 + [2] * 4, "request_time": times})
    batch = evaluate_view(wanted, log, asked).values
    replay = ViewReplay(wanted)
    replay.apply(log.slice(0, cut))
    replay.apply(log.slice(cut))
    stream = replay.values(asked).values
    for name in batch.column_names:
        assert bits(batch.column(name)) == bits(stream.column(name)), name
    if "UNBOUNDED" not in frame or not events:
        return
    with duckdb.connect() as connection:
        for macro in MACROS:
            connection.execute(macro)
        connection.register("events", log.drop_columns(["_partition", "_offset", "_row"]))
        query = f"SELECT user_id, event_time, {COLUMNS} FROM events {wanted.sql.partition('FROM events ')[2]}"
        plain = connection.sql(f"SELECT * EXCLUDE event_time FROM ({query}) QUALIFY row_number() OVER "
                               "(PARTITION BY user_id ORDER BY event_time DESC) = 1").fetchall()  # fmt: skip
    for user, tags, codes, usual, total, _ in plain:
        found = stream.slice(4 * user - 1, 1).to_pylist()[0]
        assert dict(found["tags"] or ()) == (tags or {})
        assert dict(found["codes"] or ()) == (codes or {})
        assert (found["usual"], found["total"]) == (usual, total)


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (
            "sum_each(list(v) OVER w)",
            r"no array of a fixed size; write sum_each\(list\(CAST\(v AS DECIMAL\(12,6\)\[n\]\)\)",
        ),
        ("sum_each(list(codes) OVER w)", r"write sum_each\(list\(CAST\(codes AS SMALLINT\[n\]\)\) OVER w\)"),
        ("avg_each(list(CAST(v AS FLOAT[3])) OVER w)", r"of FLOATs depends on evaluation order; write avg_each"),
        ("avg_each(list(v) OVER w, 3)", r"avg_each of list\(v\) OVER w; write avg_each\(list\(x\) OVER w\)"),
        ("histogram_each(list(v) OVER w)", r"over FLOAT\[\] counts values that compare equal and print differently"),
        ("histogram_each(list(user_id) OVER w)", r"over BIGINT is no list; write histogram\(x\) OVER w"),
        ("histogram(tags) OVER w", r"write histogram_each\(list\(tags\) OVER w\) over a frame of time"),
        ("top_k(histogram(tags) OVER w, 3)", r"write top_k\(histogram_each\(list\(tags\) OVER w\), 3\)"),
        ("sum(v) OVER w", r"write sum_each\(list\(CAST\(v AS DECIMAL\(12,6\)\[n\]\)\) OVER w\) for arrays of n"),
    ],
)
def test_what_is_refused_says_what_to_write(column: str, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        view(f"{column} AS value")


def test_an_array_of_another_size_has_no_value() -> None:
    wanted = view("sum_each(list(CAST(v AS DECIMAL(9,4)[3])) OVER w) AS total")
    event = {"user_id": 1, "tags": None, "codes": None, "v": [1.0], "event_time": 0}
    with pytest.raises(Exception, match=r"(?i)cannot cast list with length 1 to array with length 3"):
        ViewReplay(wanted).apply(with_positions(pa.Table.from_pylist([event], schema=SCHEMA)))
