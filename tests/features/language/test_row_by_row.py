"""What is not row by row is known for what it is, for every function that DuckDB has."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features.duck.connection import connect
from dovetail.features.duck.row_by_row import aggregates_called, not_row_by_row
from tests.generated import tries

ROWS = 3
#: Arguments that between them nearly every function of one or two arguments takes.
ARGUMENTS = ("i", "s", "l", "m", "t", "i, i", "s, s", "l, 1", "s, 1", "i, 0.5", "l, 'sum'")


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    made = connect(threads=1)
    made.execute(
        "CREATE TABLE rows AS SELECT i, CAST(i AS VARCHAR) AS s, [i, i] AS l, MAP {i: i} AS m, "
        f"TIMESTAMP '2024-01-01' AS t FROM range({ROWS}) AS r(i)"
    )
    return made


def test_whatever_changes_the_number_of_rows_is_known(connection: duckdb.DuckDBPyConnection) -> None:
    """Every function of the catalogue, run: one that gives another number of rows is not taken for row by row."""
    names = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type <> 'pragma' "
        "AND regexp_full_match(function_name, '[a-z_0-9]+')"
    ).fetchall()
    ran, changing = 0, set()
    for (name,) in [*names, ("unlist",)]:
        for arguments in ARGUMENTS:
            call = f"{name}({arguments})"
            try:
                found = connection.execute(f"SELECT {call} FROM rows").fetchall()
            except duckdb.Error:
                continue
            ran += 1
            if len(found) != ROWS:
                changing.add(name)
                assert not_row_by_row(f"1 + {call}") is not None, call
            elif (broken := not_row_by_row(f"1 + {call}")) is not None:
                assert broken.kind == "subquery", call  # a macro that asks DuckDB's catalogue
    assert ran > 500
    assert {"sum", "mean", "unnest", "unlist", "generate_subscripts", "regexp_split_to_table", "geomean"} <= changing


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("sum(i) OVER ()", "window"),
        ("lag(i) OVER (ORDER BY t)", "window"),
        ("(SELECT 1)", "subquery"),
        ("i IN (SELECT 1)", "subquery"),
        ("*", "columns"),
        ("COLUMNS('i')", "columns"),
        ("#1", "columns"),
        ("count(*)", "aggregate"),
        ("grouping(i)", "aggregate"),
        ("l.list_transform(lambda x: x + 1)", None),
        ("[x + 1 for x in l]", None),
        ("list_sum(l) + range(3)[1]", None),
    ],
)
def test_syntax(expression: str, kind: str | None) -> None:
    found = not_row_by_row(f"coalesce(NULL, {expression})" if kind not in ("columns",) else expression)
    assert (found and found.kind) == kind


PART = st.sampled_from(["i", "s", "l[1]", "len(l)", "list_sum(l)", "cardinality(m)", "abs(i)", "1"])
BREAKS = st.sampled_from(["max({})", "unnest([{}])", "any_value({})", "count({}) OVER ()", "unnest([{}, NULL])"])


@settings(max_examples=tries(60))
@given(parts=st.lists(PART, min_size=1, max_size=3), broken=st.none() | BREAKS)
def test_at_any_depth(connection: duckdb.DuckDBPyConnection, parts: list[str], broken: str | None) -> None:
    """An expression of parts that are row by row is; with one that is not inside, it is not."""
    inner = parts[0] if broken is None else broken.format(parts[0])
    text = f"coalesce(CASE WHEN i > 0 THEN CAST({inner} AS VARCHAR) END, concat({', '.join(parts)}))"
    assert (not_row_by_row(text) is None) == (broken is None)
    if broken is None:
        assert len(connection.execute(f"SELECT {text} FROM rows").fetchall()) == ROWS


def test_aggregates_called_are_those_of_macros_too() -> None:
    called = aggregates_called("SELECT a, geomean(x), list_sum(l), mean(y) FROM t GROUP BY a")
    assert called == {"geomean", "mean"}
