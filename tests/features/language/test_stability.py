"""What a call gives depends on the overload that is bound: a name may be refused for one type and kept for another."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from dovetail.features import Project
from dovetail.features.duck.binding import Binder
from dovetail.features.duck.connection import connect, shared_cursor
from dovetail.features.duck.parsing import BindError
from dovetail.features.duck.stability import unstable_calls, unstable_functions
from dovetail.platform.errors import DefinitionError

LoadProject = Callable[..., Project]

ROWS = pa.schema(
    [
        ("a", pa.int64()),
        ("price", pa.decimal128(10, 2)),
        ("event_time", pa.timestamp("us")),
        ("names", pa.list_(pa.string())),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("place", pa.struct([("x", pa.int64())])),
    ]
)

STABLE = [
    "a + 1",
    "price - 1.5",
    "event_time + INTERVAL 1 HOUR",
    "event_time - hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR)",
    "date_part('hour', event_time)",
    "date_trunc('day', event_time)",
    "age(event_time, TIMESTAMP '2020-01-01')",
    "list_transform(names, lambda name: name || a)",
    "last_distinct(names, 3)",
    "top_k(counts, 2)",
    "place.x + 1",
    "strftime(event_time, '%H')",
    "to_timestamp(a)::TIMESTAMP",
    "CASE WHEN a > 1 THEN range(a, a + 2) END",
]
UNSTABLE = [
    ("random()", "random()"),
    ("a + random()", "random()"),
    ("age(event_time)", "age(TIMESTAMP)"),  # the catalogue calls it stable
    ("list_transform(names, lambda name: name || uuid())", "uuid()"),
    ("CASE WHEN a > 1 THEN current_localtime() END", "current_localtime()"),
]
#: Stable by DuckDB 2.0.0; from 2.0.1 on they depend on the session's time zone or calendar.
ZONED = [
    ("event_time::TIMESTAMPTZ + INTERVAL 1 DAY", "+", ["TIMESTAMP WITH TIME ZONE", "INTERVAL"]),
    ("INTERVAL 1 DAY + event_time::TIMESTAMPTZ", "+", ["INTERVAL", "TIMESTAMP WITH TIME ZONE"]),
    ("hour(event_time::TIMESTAMPTZ)", "hour", ["TIMESTAMP WITH TIME ZONE"]),
    ("event_time AT TIME ZONE 'Asia/Tokyo'", "timezone", ["VARCHAR", "TIMESTAMP"]),
    ("date_part(['hour'], event_time::TIMESTAMPTZ)", "date_part", ["VARCHAR[]", "TIMESTAMP WITH TIME ZONE"]),
]


@pytest.fixture
def binder() -> Binder:
    return Binder({"events": ROWS})


@pytest.mark.parametrize("sql", STABLE)
def test_calls_on_rows_alone_are_kept(binder: Binder, sql: str) -> None:
    assert len(binder.describe(f"SELECT {sql} AS value FROM events")) == 1


@pytest.mark.parametrize(("sql", "call"), UNSTABLE)
def test_clocks_and_chance_are_refused_however_they_are_wrapped(binder: Binder, sql: str, call: str) -> None:
    with pytest.raises(BindError) as raised:
        binder.describe(f"SELECT {sql} AS value FROM events")
    assert str(raised.value) == f"{call} is not determined by its arguments"
    assert raised.value.hints.startswith("use the row's own columns")


@pytest.mark.parametrize(("sql", "name", "types"), ZONED)
def test_the_bound_overload_is_judged_as_the_catalogue_does(
    binder: Binder, sql: str, name: str, types: list[str]
) -> None:
    (said,) = (
        connect()
        .execute(
            "SELECT stability FROM duckdb_functions() WHERE function_name = ? AND parameter_types = ?", [name, types]
        )
        .fetchall()
    )
    query = f"SELECT {sql} AS value FROM events"
    if said == ("CONSISTENT",):
        assert len(binder.describe(query)) == 1
    else:
        with pytest.raises(BindError) as raised:
            binder.describe(query)
        assert "TIMESTAMP, which is UTC" in raised.value.hints


def test_no_name_with_a_stable_overload_is_refused_by_its_name() -> None:
    assert {"random", "now", "uuid", "today", "ago", "pg_postmaster_start_time"} <= unstable_functions()
    assert (
        not {"+", "-", "hour", "age", "date_trunc", "time_bucket", "range", "json_group_object"} & unstable_functions()
    )


def test_a_query_without_a_plan_is_not_called_stable() -> None:
    """DuckDB writes no plan of a query over a registered Arrow table."""
    cursor = shared_cursor()
    cursor.register("arrow", ROWS.empty_table())
    with pytest.raises(NotImplementedError, match="Cannot serialize"):
        unstable_calls(cursor, "SELECT a + 1 FROM arrow")
    binder = Binder({})
    binder._connection.register("arrow", ROWS.empty_table())
    with pytest.raises(BindError, match="DuckDB does not say which functions this calls: Cannot serialize"):
        binder.describe("SELECT a + 1 FROM arrow")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("available_at > ago(INTERVAL 1 DAY)", "2: ago gives another value each time it is asked; use the row's own"),
        ("age(available_at) > INTERVAL 1 DAY", "1: age(TIMESTAMP) is not determined by its arguments; use the row's"),
    ],
)
def test_a_definition_is_refused_with_file_and_line(load_project: LoadProject, condition: str, message: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        load_project({"sql/x.sql": f"SELECT item_id, min(score)\nFROM items WHERE {condition} GROUP BY 1"})
    assert str(raised.value).startswith(f"sql/x.sql:{message}")


def test_sessions_run_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    for connection in (connect(), connect().cursor()):
        (zone,) = connection.execute("SELECT current_setting('TimeZone')").fetchall()
        assert zone == ("UTC",)
