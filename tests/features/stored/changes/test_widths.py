"""A column may be declared wider where no value depends on how wide it is: DuckDB is asked."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.stored.widths import columns_named, kind_of, passage, widens

NAMES = ("a", "b", "d")
NARROW = {"a": "INTEGER", "b": "SMALLINT", "d": "DECIMAL(5,2)"}
WIDE = {"a": "BIGINT", "b": "INTEGER", "d": "DECIMAL(12,2)"}
VALUES = [(7, -3, "12.34"), (-2147483648, 32767, "-999.99"), (None, 0, "0.01"), (5, None, None), (0, 1, "1.00")]


def numbers() -> st.SearchStrategy[str]:
    leaves = st.sampled_from([*NAMES, "1", "2.5", "NULL", "-7"])

    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            inner.map(lambda x: f"(- {x})"),
            st.sampled_from(["abs", "hash", "typeof"]).flatmap(lambda f: inner.map(lambda x: f"{f}({x})")),
            pair.map(lambda p: f"coalesce({p[0]}, {p[1]})"),
            pair.map(lambda p: f"nullif({p[0]}, {p[1]})"),
            pair.map(lambda p: f"({p[0]} / {p[1]})"),
            pair.map(lambda p: f"greatest({p[0]}, {p[1]})"),
            pair.map(lambda p: f"CAST({p[0]} > {p[1]} AS INTEGER)"),
            st.tuples(inner, inner, inner).map(lambda p: f"CASE WHEN {p[0]} < {p[1]} THEN {p[1]} ELSE {p[2]} END"),
            st.tuples(inner, inner, inner).map(lambda p: f"CAST({p[0]} BETWEEN {p[1]} AND {p[2]} AS BIGINT)"),
            inner.map(lambda x: f"len(CAST({x} AS VARCHAR))"),
            inner.map(lambda x: f"CAST(CAST({x} AS DOUBLE) AS DECIMAL(18,3))"),
        )

    return st.recursive(leaves, more, max_leaves=6)


@pytest.fixture(scope="module")
def both() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    for name, types in (("narrow", NARROW), ("wide", WIDE)):
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'{c} {t}' for c, t in types.items())})")
        connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", VALUES)
    yield connection
    connection.close()


@given(expression=numbers())
def test_what_is_not_noticed_gives_the_same_values(both: duckdb.DuckDBPyConnection, expression: str) -> None:
    if passage(expression, NAMES).noticed:
        return
    try:
        narrow = both.sql(f"SELECT {expression} AS x FROM narrow").to_arrow_table().column("x")
    except duckdb.Error:  # no value, or no expression: an event of that kind was a dead letter
        return
    wide = both.sql(f"SELECT {expression} AS x FROM wide").to_arrow_table().column("x")
    assert repr(narrow.to_pylist()) == repr(wide.to_pylist()), expression
    if narrow.type != wide.type:
        assert kind_of(narrow.type) == kind_of(wide.type), expression
        assert passage(expression, NAMES).carried


@pytest.mark.parametrize(
    "expression",
    ["hash(a)", "typeof(a + 1)", "[a]", "{'x': a}", "a << 3", "a // 2", "a % 2", "CAST(a AS BIT)", "round(a)", "a.b"],
)
def test_what_may_depend_on_the_width_is_noticed(expression: str) -> None:
    assert "a" in passage(expression, NAMES).noticed


def test_the_type_of_what_is_passed_on_shows_the_width_and_of_what_is_made_does_not() -> None:
    assert passage("a + 1", NAMES).carried == {"a"}
    assert passage("a > b", NAMES).carried == frozenset()
    assert passage("CASE WHEN a > 1 THEN B ELSE 0 END", NAMES).carried == {"b"}
    assert columns_named('"A" + d', NAMES) == {"a", "d"}
    assert columns_named(None, NAMES) == frozenset()


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        ("int32", "int64", True),
        ("int64", "int32", False),
        ("decimal128(9, 2)", "decimal128(12, 2)", True),
        ("decimal128(9, 2)", "decimal128(12, 3)", False),
        ("decimal128(12, 2)", "decimal128(9, 2)", False),
        ("int32", "decimal128(12, 0)", False),
        ("float", "double", False),
        ("string", "string", True),
    ],
)
def test_a_wider_type_holds_every_value_as_the_same_number(before: str, after: str, wider: bool) -> None:
    assert widens(before, after) is wider


def test_kinds_are_without_width() -> None:
    assert kind_of(pa.int8()) == kind_of(pa.int64()) != kind_of(pa.float64())
    assert kind_of(pa.decimal128(9, 2)) == kind_of(pa.decimal128(18, 2)) != kind_of(pa.decimal128(18, 3))


def test_types_are_wider_at_any_level_and_names_are_no_types() -> None:
    assert widens(str(pa.list_(pa.int32())), str(pa.list_(pa.int64())))
    assert not widens(str(pa.list_(pa.int64())), str(pa.list_(pa.int32())))
    assert kind_of(pa.map_(pa.int32(), pa.uint64())) == kind_of(pa.map_(pa.int64(), pa.uint64()))
    assert not widens(str(pa.struct([("int8", pa.int8())])), str(pa.struct([("int16", pa.int8())])))
