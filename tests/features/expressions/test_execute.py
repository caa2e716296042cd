"""Expressions at run time: both lanes together, and what happens where there is no value."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.expressions.execute import (
    Expression,
    ExpressionSet,
    StreamPreparer,
)
from dovetail.features.expressions.feature_rows import FeatureSetEvaluator
from dovetail.features.plan.definitions import (
    Aggregate,
    FeatureColumn,
    FeatureSet,
    Input,
    JoinedView,
    Stream,
    StreamView,
    Window,
)
from dovetail.platform.errors import WireError
from dovetail.platform.rows.schema import TableSchema

SCHEMA = pa.schema({"a": pa.int64(), "b": pa.int64(), "total": pa.decimal128(38, 2), "word": pa.string()})


def rows(n: int) -> pa.Table:
    whole = pa.array(np.arange(n), pa.int64())
    totals = pa.array([Decimal(i) for i in range(n)], pa.decimal128(38, 2))
    return pa.Table.from_arrays([whole, whole, totals, pa.array([f"w{i}" for i in range(n)])], schema=SCHEMA)


def expressions(*texts: tuple[str, pa.DataType]) -> ExpressionSet:
    return ExpressionSet([Expression(sql, type_, f"sql/x.sql:3: {sql}") for sql, type_ in texts], SCHEMA)


def test_lanes_are_mixed_in_the_order_written() -> None:
    both = expressions(("upper(word)", pa.string()), ("a + b", pa.int64()), ("length(word)", pa.int64()))
    assert both.lanes == ("duckdb", "compiled", "duckdb")
    assert [array.to_pylist() for array in both.evaluate(rows(2))] == [["W0", "W1"], [0, 2], [2, 2]]


def test_a_compiled_type_that_is_not_the_bound_type_stays_in_duckdb() -> None:
    assert expressions(("a + b", pa.int32())).lanes == ("duckdb",)


def test_where_a_kernel_cannot_vouch_duckdb_decides() -> None:
    lazy = expressions(
        ("CASE WHEN b <> 0 THEN a // b ELSE -1 END", pa.int64()), ("CAST(total AS DOUBLE)", pa.float64())
    )
    assert lazy.lanes == ("compiled", "compiled")
    table = rows(3).set_column(2, "total", pa.array([Decimal(2**53 + 1), None, Decimal("0.1")], pa.decimal128(38, 2)))
    wide = DuckLane([("CAST(total AS DOUBLE)", pa.float64())]).evaluate(table)[0]
    assert [array.to_pylist() for array in lazy.evaluate(table)] == [[-1, 1, 1], wide.to_pylist()]


@pytest.mark.parametrize("n", [1, 6, 7, 8, 50])
def test_an_error_names_expression_and_row(n: int) -> None:
    table = rows(n)
    failing = expressions(("upper(word)", pa.string()), ("7 // (a - 5)", pa.int64()))
    assert failing.evaluate(table.slice(0, 5))[1].to_pylist() == [-1, -1, -2, -3, -7][:n]
    if n <= 5:
        return
    with pytest.raises(WireError, match=r"sql/x.sql:3: 7 // \(a - 5\): row 5: .*Division by zero"):
        failing.evaluate(table)


def test_no_rows_give_no_rows() -> None:
    both = expressions(("upper(word)", pa.string()), ("a + b", pa.int64()), ("1", pa.int32()))
    assert [len(array) for array in both.evaluate(rows(0))] == [0, 0, 0]


def test_threads_share_an_expression_set() -> None:
    both = expressions(("upper(word)", pa.string()), ("a + b", pa.int64()))
    with ThreadPoolExecutor(4) as pool:
        for n, (words, sums) in zip(range(40), pool.map(both.evaluate, map(rows, range(40))), strict=True):
            assert words.to_pylist() == [f"W{i}" for i in range(n)]
            assert sums.to_pylist() == [2 * i for i in range(n)]


def test_a_lane_says_duckdbs_first_line() -> None:
    with pytest.raises(LaneError, match=r"^Invalid Input Error: Division by zero") as raised:
        DuckLane([("a // 0", pa.int64())]).evaluate(rows(1))
    assert "\n" not in str(raised.value)


def _column(name: str, resolved: str, origin: str, type_: pa.DataType, *references: tuple[str, str]) -> FeatureColumn:
    return FeatureColumn(name, resolved, 1, references, origin, "compiled", type_, resolved)  # type: ignore[arg-type]


FEATURES = FeatureSet(
    "ranking",
    "sql/ranking.sql",
    1,
    "",
    (JoinedView("acts", "streaming", ("user_id",)),),
    (
        _column("request_id", "request_id", "key", pa.string(), ("request", "request_id")),
        _column("rate", '"acts.n" / nullif("acts.m", 0)', "streaming", pa.float64(), ("acts", "n"), ("acts", "m")),
        _column("loud", "upper(request_id)", "request", pa.string(), ("request", "request_id")),
        _column("one", "1", "request", pa.int32()),
    ),
    pa.schema({"request_id": pa.string(), "user_id": pa.int64(), "acts.n": pa.int64(), "acts.m": pa.int64()}),
)


def test_a_feature_set_evaluates_the_origins_asked_for() -> None:
    evaluator = FeatureSetEvaluator(FEATURES)
    table = pa.table({"request_id": ["a", "b"], "acts.n": [1, 2], "acts.m": [2, 0], "more": [0, 0]})
    assert evaluator.evaluate(table).to_pydict() == {
        "request_id": ["a", "b"],
        "rate": [0.5, None],
        "loud": ["A", "B"],
        "one": [1, 1],
    }
    assert evaluator.evaluate(table).schema == FEATURES.schema
    # Only what these columns read has to be there.
    assert evaluator.evaluate(table.select(["request_id"]), ("request",)).column_names == ["loud", "one"]
    assert evaluator.evaluate(table, ("batch",)).num_columns == 0


EVENTS = pa.schema(
    [
        pa.field("user_id", pa.int64()),
        pa.field("action", pa.string()),
        pa.field("price", pa.decimal128(9, 2)),
        pa.field("event_time", pa.timestamp("us"), nullable=False),
    ]
)


def _view(where: str | None) -> StreamView:
    stream = Stream(TableSchema("events", "events.sql", 1, EVENTS), "events", "event_time", "user_id", 0, 0)
    inputs = (
        Input("price", "action = 'a'", pa.decimal128(9, 2)),
        Input("price", None, pa.decimal128(9, 2)),
        Input("length(action)", "action = 'a'", pa.int64()),
    )
    return StreamView(
        "v", "sql/v.sql", 4, "", stream, ("user_id",), where, (Window("w", 1, None),), inputs,
        (Aggregate("s", "sum", 0, 0, pa.decimal128(38, 2)),),
    )  # fmt: skip


def _events() -> pa.Table:
    prices = [None, Decimal("1.50"), Decimal(2), Decimal(3)]
    columns = {"user_id": [1, None, 3, 4], "action": ["a", "a", None, "b"], "price": prices, "event_time": [5, 4, 7, 6]}
    return pa.Table.from_pydict(columns, schema=EVENTS)


def test_a_preparer_applies_where_and_evaluates_each_distinct_expression_once() -> None:
    preparer = StreamPreparer(_view("price IS NULL OR price < 3"))
    assert preparer.lanes == ("compiled", "compiled", "duckdb", "compiled")
    prepared = preparer.prepare(_events())
    assert prepared.event_time.tolist() == [5, 4, 7, 6]
    assert prepared.kept.tolist() == [0, 1, 2]
    assert prepared.entity[0].to_pylist() == [1, None, 3]
    assert [a.to_pylist() for a in prepared.arguments] == [[None, Decimal("1.50"), Decimal(2)], [1, 1, None]]
    assert [f.to_pylist() for f in prepared.filters] == [[True, True, None]]


def test_a_preparer_without_where_keeps_all() -> None:
    assert StreamPreparer(_view(None)).prepare(_events()).kept.tolist() == [0, 1, 2, 3]
    assert StreamPreparer(_view("user_id > 100")).prepare(_events()).kept.tolist() == []
    assert StreamPreparer(_view("action = 'a'")).prepare(_events().slice(0, 0)).event_time.tolist() == []


def test_a_failing_where_names_view_and_event() -> None:
    with pytest.raises(WireError, match=r"sql/v.sql:4: WHERE of v: row 2: "):
        StreamPreparer(_view("10 // (user_id - 3) > 0")).prepare(_events())


@pytest.mark.parametrize("sql", ["unnest([a, a])", "max(a)", "unnest(CASE WHEN a = 0 THEN [a] END)"])
def test_what_is_not_row_by_row_is_an_error_and_never_anothers_value(sql: str) -> None:
    """The check refuses it; were it to pass, no row would get what belongs to another one."""
    with pytest.raises(LaneError, match="an expression is not row by row"):
        DuckLane([(sql, pa.int64())]).evaluate(rows(3))
    with pytest.raises(WireError, match=r"sql/x.sql:3: .*: row \d: .*not row by row"):
        expressions((sql, pa.int64()), ("a + b", pa.int64())).evaluate(rows(3))


def test_a_value_that_its_type_does_not_hold_is_an_error_of_that_row() -> None:
    """DuckDB gives a HUGEINT where the plan says BIGINT: such an error, too, names the row."""
    with pytest.raises(WireError, match=r"sql/x.sql:3: .*: row 2: "):
        expressions(("CAST(a AS HUGEINT) * 9223372036854775807", pa.int64())).evaluate(rows(3))
