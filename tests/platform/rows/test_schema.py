"""CREATE TABLE as row schema."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from sqlglot import exp

from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table

FILE = Path("sql/x.sql")


def table(text: str) -> TableSchema:
    (statement,) = parse_statements(FILE, text)
    assert isinstance(statement, exp.Create)
    return parse_table(statement, FILE)


def test_every_supported_type() -> None:
    schema = table(
        "CREATE TABLE t (a BIGINT NOT NULL, b INTEGER, c SMALLINT, d TINYINT, e BOOLEAN, f DOUBLE, g FLOAT, h VARCHAR, "
        "i DATE, j TIMESTAMP, k DECIMAL(12,2), l DECIMAL(5), m DECIMAL, n VARCHAR[], o STRUCT(x BIGINT, y DOUBLE)[])"
    )
    assert schema.name == "t"
    assert schema.required == ("a",)
    assert [str(t) for t in schema.arrow.types[:10]] == [
        "int64", "int32", "int16", "int8", "bool", "double", "float", "string", "date32[day]", "timestamp[us]",
    ]  # fmt: skip
    assert schema.arrow.types[10:13] == [pa.decimal128(12, 2), pa.decimal128(5, 0), pa.decimal128(18, 3)]
    assert schema.arrow.field("n").type == pa.list_(pa.string())
    assert schema.arrow.field("o").type == pa.list_(pa.struct([("x", pa.int64()), ("y", pa.float64())]))


WRONG = {
    "CREATE TABLE t (a BIGINT,\n  b DECIMAL(9,4)[3])": (
        r"sql/x\.sql:2: column b has type DECIMAL\(9, 4\)\[3\], an array of a fixed size; .*; "
        r"declare DECIMAL\(9, 4\)\[\]; a definition that needs the size writes CAST\(b AS DECIMAL\(9, 4\)\[3\]\)"
    ),
    "CREATE TABLE t (a STRUCT(b INTEGER[4]))": r"column a has type INT\[4\], .*; declare INT\[\]",
    "CREATE TABLE t (a BIGINT,\n  b UUID)": r"sql/x\.sql:2: column b has type UUID, which is not supported; use one of",
    "CREATE TABLE t (a DECIMAL(30,2))": r"sql/x\.sql:1: column a is DECIMAL\(30,2\); more than 18 digits",
    "CREATE TABLE t": r"sql/x\.sql:1: CREATE TABLE without a column list",
    "CREATE TABLE t (a BIGINT, PRIMARY KEY (a))": r"is not a column with a type",
}


@pytest.mark.parametrize("text", sorted(WRONG))
def test_what_is_unsupported_names_file_and_line(text: str) -> None:
    with pytest.raises(DefinitionError, match=WRONG[text]):
        table(text)


@pytest.mark.parametrize("text", ["SELECT a\nFROM FROM b WHERE (", "SELECT 'unclosed"])
def test_what_is_no_sql_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match=r"sql/x\.sql:\d+: not valid SQL"):
        parse_statements(FILE, text)


def test_a_column_that_is_wanted_and_missing_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"the join needs column 'z', which table t does not have \(it has a\)"):
        table("CREATE TABLE t (a BIGINT)").field("z", wanted_by="the join")
