"""The compiled lane is DuckDB, bit for bit, or it says that it cannot vouch."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.duck.parsing import syntax_tree
from dovetail.features.expressions.compile import (
    Compiled,
    NotProven,
    Rows,
    Scope,
    compile_expression,
)
from tests.generated import tries

SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "j": pa.int64(),
        "n": pa.int32(),
        "s": pa.int16(),
        "x": pa.float64(),
        "y": pa.float64(),
        "d": pa.decimal128(12, 2),
        "total": pa.decimal128(38, 2),
        "w": pa.string(),
        "v.w": pa.string(),
        "t": pa.timestamp("us"),
        "b": pa.bool_(),
        "c": pa.bool_(),
        "f": pa.float32(),
    }
)

INT64 = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**31, -(2**31) - 1]),
)
INT32 = st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), 2**31 - 1]))
DOUBLE = st.one_of(
    st.floats(),
    st.integers(-5, 5).map(float),
    st.sampled_from([-0.0, 0.5, 1.5, 2.5, -2.5, 9.3e18, -9223372036854775808.0, 9223372036854774784.0, 5e-324]),
)
TEXT = st.one_of(st.sampled_from(["", "a", "b", "click", "é", "🦆", "A"]), st.text(max_size=3))
TIME = st.one_of(
    st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    st.integers(0, 2_000_000_000_000_000),
    st.sampled_from([-62_135_596_800_000_001, 253_402_300_800_000_000]),
)


def _decimals(digits: int) -> st.SearchStrategy[Decimal]:
    return st.integers(1 - 10**digits, 10**digits - 1).map(lambda unscaled: Decimal(unscaled).scaleb(-2))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": INT64,
    "j": INT64,
    "n": INT32,
    "s": st.integers(-(2**15), 2**15 - 1),
    "x": DOUBLE,
    "y": DOUBLE,
    "d": _decimals(12),
    "total": st.one_of(_decimals(9), _decimals(16), _decimals(27)),
    "w": TEXT,
    "v.w": TEXT,
    "t": TIME,
    "b": st.booleans(),
    "c": st.booleans(),
    "f": st.floats(width=32),
}

ROWS = st.lists(st.fixed_dictionaries({k: st.none() | v for k, v in VALUES.items()}), min_size=1, max_size=6)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        if field.type == pa.timestamp("us"):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def bits(array: pa.Array) -> list[Any]:
    """The values with all that distinguishes them: -0.0 from 0.0, but any NaN as one."""
    if pa.types.is_floating(array.type):
        numbers = array.to_pylist()
        return [None if v is None else "nan" if np.isnan(v) else (v, str(v)) for v in numbers]
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())  # Python has no dates before the year 1
    return list(array.to_pylist())


EXPRESSIONS = """
i + j | i - j | i * j | i // j | i % j | -i | abs(i) | n + 1 | n + n | n * n | -n | abs(n) | n - 3000000000 | i + n
s + 1 | s * s | -s | n // n | n % 7 | i // -3 | i % - 3 | i + 9223372036854775807 | x + y | x - y | x * y | x / y
-x | abs(x) | x + 1 | x * 1.5 | 2.25 - x | x / 0 | 1e3 * x | i / j | i / 0 | 0 / i | n / s | i + x | n * y | d / 2
d / d | d / nullif(i, 0) | total / i | total / nullif(total, 0) | d + x | total * y | x > d | floor(x) | ceil(x)
sqrt(x) | ln(x) | exp(x) | ln(i) | sqrt(d) | ln(1 + i) | exp(n) | i = j | i <> j | i < j | i <= j | i > j | i >= j
x = y | x <> y | x < y | x <= y | x > y | x >= y | i < x | x = n | n = i | i > 3 | x > 0.5 | x <= 1 | x <> 2.5
3 < i | 0.5 >= x | d > 10 | d = 0.25 | d <= 99.9 | d = d | w = 'a' | w <> 'a' | 'click' = w | w = "v.w" | w < "v.w"
w >= 'b' | b = c | b <> true | t = t | t < t | w || "v.w" | w || '!' | '<' || w | b AND c | b OR c | NOT b
b AND i > 0 | b OR c AND NOT b | NOT (b AND c) | b AND c AND i = j | true AND b | b OR false | i IS NULL
x IS NOT NULL | w IS NULL | (i > 0) IS NULL | NOT i IS NULL | nullif(i, j) | nullif(i, 0) | nullif(x, y)
nullif(x, 0) | nullif(w, '') | nullif(n, i) | nullif(d, 0) | nullif(i, NULL) | coalesce(i, 0) | coalesce(x, 0)
coalesce(x, y, 1.5) | coalesce(w, "v.w", 'z') | coalesce(i, n) | coalesce(b, false) | coalesce(x, i) | ifnull(i, 7)
coalesce(n, 3000000000) | coalesce(total, 0) | coalesce(d, 0.5) | coalesce(NULL, i) | CASE WHEN b THEN i ELSE j END
CASE WHEN b THEN 1 ELSE 0 END | CASE WHEN i > 0 THEN x WHEN c THEN y END
CASE WHEN i > 0 THEN 'pos' WHEN i < 0 THEN 'neg' ELSE w END | CASE i WHEN 1 THEN 'one' WHEN 2 THEN 'two' END
CASE WHEN b THEN i ELSE 0 END | CASE WHEN b THEN x ELSE 0 END | if(b, i, j)
CASE WHEN j <> 0 THEN i // j ELSE 0 END | CASE WHEN b THEN i ELSE x END | CASE WHEN b THEN NULL ELSE w END
CASE WHEN b THEN 1 ELSE 3000000000 END | i IN (1, 2, 3) | i NOT IN (1, 2) | n IN (0, -1) | w IN ('a', 'b')
w NOT IN ('a', '') | x IN (1, 2.5) | x IN (0, y) | i IN (1, NULL) | i IN (j, 0) | i IN (1, x) | w IN ('a', "v.w")
d IN (0.5, 1) | i IN (1, 3000000000) | n IN (1, 3000000000) | i BETWEEN 1 AND 3 | i NOT BETWEEN j AND 3
x BETWEEN 0 AND y | x BETWEEN i AND 2.5 | w BETWEEN 'a' AND 'c' | i BETWEEN 0 AND x | CAST(i AS DOUBLE)
CAST(n AS BIGINT) | CAST(i AS INTEGER) | CAST(x AS BIGINT) | CAST(x AS INTEGER) | CAST(d AS DOUBLE)
CAST(total AS DOUBLE) | CAST(b AS INTEGER) | CAST(1 AS BIGINT) | i::DOUBLE / 3 | CAST(s AS DOUBLE)
CAST(i AS SMALLINT) | CAST(NULL AS DOUBLE) | year(t) | quarter(t) | month(t) | day(t) | hour(t) | minute(t)
second(t) | dayofweek(t) | isodow(t) | dayofyear(t) | dayofmonth(t) | extract(hour FROM t) | extract(dow FROM t)
date_part('doy', t) | hour(t) * 60 + minute(t) | i | x | w | t | d | "v.w" | 7 | 'word' | true | 3000000000
"""
COMPILED = [sql.strip() for line in EXPRESSIONS.strip().splitlines() for sql in line.split(" | ")]


@pytest.fixture(scope="module")
def binder() -> Binder:
    return Binder({"rows": SCHEMA})


def compiled(sql: str) -> Compiled:
    found = compile_expression(syntax_tree(sql), SCHEMA)
    assert found is not None, f"{sql} does not compile"
    return found


def decide(sql: str, kernel: Compiled, table: pa.Table) -> None:
    columns = {name: table.column(name).combine_chunks() for name in SCHEMA.names}
    try:
        mine = kernel.evaluate(columns, table.num_rows)
    except NotProven:
        return  # DuckDB is asked
    try:
        theirs = lane(sql).evaluate(table)[0]
    except LaneError as error:
        pytest.fail(f"{sql}: DuckDB refuses ({error}), the kernel gave {mine}")
    assert mine.type == theirs.type
    assert bits(mine) == bits(theirs), sql


@lru_cache(maxsize=2)
def lane(sql: str) -> DuckLane:
    return DuckLane([(sql, compiled(sql).type)])


@pytest.mark.parametrize("sql", COMPILED)
def test_the_compiled_type_is_the_bound_type(sql: str, binder: Binder) -> None:
    assert compiled(sql).type == binder.describe(f"SELECT {sql} AS value FROM rows").field(0).type


EDGES = [
    {"i": 2**53 + 1, "j": 0, "n": -(2**31), "s": -(2**15), "x": float("nan"), "y": float("inf"), "d": Decimal("0.25")}
    | {"total": Decimal("0.10"), "w": "", "v.w": "é", "t": 0, "b": None, "c": False, "f": 0.1},
    {"i": -(2**63), "j": -1, "n": 2**31 - 1, "s": 1, "x": -0.0, "y": 0.0, "d": Decimal("-99.90"), "total": None}
    | {"w": None, "v.w": "a", "t": -1, "b": True, "c": None, "f": None},
]


@pytest.mark.parametrize("sql", COMPILED)
@settings(max_examples=tries(6))
@given(rows=ROWS)
@example(rows=EDGES)
@example(rows=[dict.fromkeys(VALUES)])
def test_a_kernel_gives_duckdbs_value_or_leaves_it_to_duckdb(sql: str, rows: list[dict[str, Any]]) -> None:
    decide(sql, compiled(sql), table_of(rows))


LEFT_TO_DUCKDB = [
    "x // y", "x % y", "d + d", "d * 2", "d // 2", "i * 1.5", "i > 0.5", "i = d", "s + 100000", "log10(x)", "pow(x, 2)",
    "w || 1", "upper(w)", "CAST(w AS BIGINT)", "CAST(x AS DECIMAL(9,2))", "TRY_CAST(x AS INTEGER)", "round(x)",
    "i IS DISTINCT FROM j", "t > TIMESTAMP '2020-01-01'", "1 + 1", "greatest(i, j)", "epoch(t)", "hour(w::TIMESTAMP)",
    "i = 99999999999999999999", "x * 1.2345678901234567", "coalesce(1.5, 2.5)", "TRY(i // j)", "i & 1", "-w", "abs(d)",
    "floor(i)", "nope", "t.x", "d > 12345678901.5", "w IN ('a', 1)", "count(*)", "1.5", "NULL", "-b", "sqrt(w)",
    "w / x", "date_part('epoch', t)", "hour(i)", "CASE WHEN 1 THEN 2 END", "d = 0.001", "b || w", "CAST('1' AS BIGINT)",
    "nullif(1, i)", "x = '1'", "(SELECT 1)",
    "sum(DISTINCT i)", "t || t", "f = f", "f + 1", "f < x", "NOT i", "i AND b",
]  # fmt: skip


@pytest.mark.parametrize("sql", LEFT_TO_DUCKDB)
def test_what_is_not_proven_is_left_to_duckdb(sql: str) -> None:
    assert compile_expression(syntax_tree(sql), SCHEMA) is None


def test_a_kernel_does_not_vouch_beyond_what_was_proven() -> None:
    rows = table_of([EDGES[0] | {"total": Decimal(2**53 + 1).scaleb(-2), "t": 2**63 - 1}])
    columns = {name: rows.column(name).combine_chunks() for name in SCHEMA.names}
    for sql in ("CAST(total AS DOUBLE)", "hour(t)", "i // j"):
        with pytest.raises(NotProven):
            compiled(sql).evaluate(columns, 1)


def test_what_expressions_share_is_evaluated_once() -> None:
    scope = Scope(SCHEMA)
    found = [compile_expression(syntax_tree(sql), scope) for sql in ("i / nullif(j, 0)", "ln(1.5 +  i /nullif(j,0))")]
    first, second = (kernel for kernel in found if kernel is not None)
    rows = Rows({"i": pa.array([6, 7]), "j": pa.array([3, 0])})
    first.evaluate(rows, 2)
    shared = dict(rows.known)
    second.evaluate(rows, 2)
    assert all(rows.known[part] is value for part, value in shared.items())
    assert len(rows.known) == len(shared) + 2  # the sum and its logarithm


def test_integers_become_doubles_whatever_their_place_in_a_buffer() -> None:
    kernel = compiled("CAST(i AS DOUBLE)")
    numbers = pa.array([1, None, 3, -4])
    for part in (numbers, numbers[1:], numbers[2:], numbers[:0]):
        columns = {name: pa.nulls(len(part), SCHEMA.field(name).type) for name in SCHEMA.names} | {"i": part}
        assert kernel.evaluate(columns, len(part)).to_pylist() == part.to_pylist()
