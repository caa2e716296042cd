"""Rows of files: whatever the format, a row fits or not by the rules of the wire, and is told by its number."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from dovetail.app.doors.files import FileFormat, format_of, read_file
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table

TEXT = """
CREATE TABLE things (
    name VARCHAR NOT NULL, at TIMESTAMP, day DATE, price DECIMAL(8,2), weight DOUBLE, many BIGINT, good BOOLEAN,
    parts STRUCT(item_id BIGINT, cost DECIMAL(6,2))[]
);"""
ROW = {
    "name": "a, \"quoted\"", "at": "2024-02-29T12:00:00.5Z", "day": "2024-02-29", "price": "9.99", "weight": 0.25,
    "many": 9007199254740993, "good": True, "parts": [{"item_id": 1, "cost": "0.10"}],
}  # fmt: skip


@pytest.fixture
def schema() -> TableSchema:
    (statement,) = parse_statements(Path("things.sql"), TEXT)
    return parse_table(statement, Path("things.sql"))


def read(path: Path, schema: TableSchema) -> tuple[pa.Table, list[int], list[tuple[int, str]]]:
    parts = list(read_file(str(path), format_of(str(path), "FILE"), schema, "FILE"))
    table = pa.concat_tables([part.table for part in parts])
    return table, [n for part in parts for n in part.numbers.tolist()], [bad for part in parts for bad in part.bad]


def csv_field(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"' if text else ""


def test_every_format_gives_the_same_rows(schema: TableSchema, tmp_path: Path) -> None:
    nothing = dict.fromkeys(ROW) | {"name": "b"}
    (tmp_path / "x.jsonl").write_text("\n\n".join(json.dumps(row) for row in (ROW, nothing)) + "\n")
    lines = [",".join(ROW), *(",".join(csv_field(row[name]) for name in ROW) for row in (ROW, nothing))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    table, numbers, bad = read(tmp_path / "x.jsonl", schema)
    assert (numbers, bad) == ([1, 3], [])
    assert table.to_pylist()[0]["many"] == ROW["many"]
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "x.arrows"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("x.csv", "x.parquet", "x.arrow", "x.arrows"):
        found, numbers, bad = read(tmp_path / name, schema)
        assert (numbers, bad) == ([1, 2], []), name
        assert found.equals(table), name
    query = f"SELECT * FROM '{tmp_path / 'x.parquet'}' ORDER BY name DESC"
    (part,) = read_file(query, format_of(query, "FILE"), schema, "FILE")
    assert part.table.column("name").to_pylist() == ["b", ROW["name"]]


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("many", "1.5", "many"),
        ("many", "99999999999999999999", "many"),
        ("weight", "heavy", "weight"),
        ("good", "perhaps", "good"),
        ("price", "9.995", "price"),
        ("at", "yesterday", "at"),
        ("parts", '"[{""item_id"": 1.5}]"', "parts"),
        ("parts", "[", "parts"),
    ],
)
def test_a_bad_field_of_a_csv_is_told_by_row_and_reason(
    schema: TableSchema, tmp_path: Path, column: str, text: str, reason: str
) -> None:
    good = {"many": "1", "weight": "1", "good": "true", "price": "1", "at": "2024-01-01", "parts": "[]"}[column]
    (tmp_path / "x.csv").write_text(f"{column},name\n{good},x\n{text},x\n{good},x\n")
    _, numbers, bad = read(tmp_path / "x.csv", schema)
    assert numbers == [1, 3]
    ((number, why),) = bad
    assert number == 2
    assert reason in why


def test_an_empty_field_of_a_csv_is_null_and_a_quoted_one_a_text(schema: TableSchema, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('many,name\n1,x\n1,""\n1,\n')
    table, numbers, bad = read(tmp_path / "x.csv", schema)
    assert table.column("name").to_pylist() == ["x", ""]
    assert numbers == [1, 2]
    assert bad == [(3, "column name is missing or NULL; it is NOT NULL in things.sql")]


def test_a_bad_row_of_parquet_is_found(schema: TableSchema, tmp_path: Path) -> None:
    names = [f"n{at}" for at in range(40_000)]
    names[31_234] = None  # type: ignore[call-overload]
    pq.write_table(pa.table({"name": names}), tmp_path / "x.parquet")
    table, _, bad = read(tmp_path / "x.parquet", schema)
    assert table.num_rows == 39_999
    assert [number for number, _ in bad] == [31_235]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"no parquet", "cannot be read as parquet"),
        ("x.csv", b"other,columns\n1,2\n", r"none of its columns \(other, columns\) is one of things"),
        ("y.csv", None, "does not exist"),
        ("x.txt", b"", "its name does not say the format"),
    ],
)
def test_a_file_that_is_none_is_refused(
    schema: TableSchema, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name, schema)


def test_a_query_that_duckdb_refuses_is_refused(schema: TableSchema) -> None:
    with pytest.raises(ConfigError, match="DuckDB refuses the query"):
        list(read_file("SELECT nothing", FileFormat.query, schema, "FILE"))
