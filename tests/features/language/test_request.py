"""The request relation: one row per candidate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from sqlglot import exp

from dovetail.features.plan.request import check_request, flatten_requests, request_schema
from dovetail.platform.rows.positions import with_own_positions
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table

DDL = """CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT, slot INTEGER)[] NOT NULL)"""


def schema() -> TableSchema:
    (statement,) = parse_statements(Path("request.sql"), DDL)
    assert isinstance(statement, exp.Create)
    return parse_table(statement, Path("request.sql"))


def requests(candidates: list[list[dict[str, int | None] | None]]) -> pa.Table:
    rows = [
        {"request_id": f"r{i}", "user_id": 10 * i, "request_time": i, "candidates": c} for i, c in enumerate(candidates)
    ]
    return pa.Table.from_pylist(rows, schema=schema().arrow)


def test_the_flat_schema_is_the_requests_columns_then_the_candidates_members() -> None:
    check_request(schema())
    flat = request_schema(schema())
    assert flat.names == ["request_id", "user_id", "request_time", "item_id", "slot"]
    assert flat.field("slot").type == pa.int32()


def test_flattening_keeps_order_and_numbers_the_candidates() -> None:
    table = requests([[{"item_id": 7, "slot": 1}, {"item_id": 8, "slot": 2}], [], [{"item_id": 9, "slot": None}]])
    flat = flatten_requests(table)
    assert flat.select(["request_id", "user_id", "item_id", "slot", "_candidate"]).to_pylist() == [
        {"request_id": "r0", "user_id": 0, "item_id": 7, "slot": 1, "_candidate": 0},
        {"request_id": "r0", "user_id": 0, "item_id": 8, "slot": 2, "_candidate": 1},
        {"request_id": "r2", "user_id": 20, "item_id": 9, "slot": None, "_candidate": 0},
    ]
    assert flat.schema.field("_candidate") == pa.field("_candidate", pa.int32(), nullable=False)


def test_a_null_candidate_has_null_members() -> None:
    flat = flatten_requests(requests([[None, {"item_id": 1, "slot": 1}]]))
    assert flat.column("item_id").to_pylist() == [None, 1]


def test_position_columns_are_repeated() -> None:
    table = requests([[{"item_id": 7, "slot": 1}] * 3])
    table = with_own_positions(table, 4, np.array([11], dtype=np.int64), np.array([0], dtype=np.int32))
    assert flatten_requests(table).column("_offset").to_pylist() == [11, 11, 11]


def test_slices_chunks_and_nothing_at_all_flatten_too() -> None:
    table = requests([[{"item_id": i, "slot": 0}] * i for i in range(5)])
    whole = flatten_requests(table)
    assert flatten_requests(table.slice(2, 2)).column("item_id").to_pylist() == [2, 2, 3, 3, 3]
    assert flatten_requests(pa.concat_tables([table.slice(0, 3), table.slice(3)])).equals(whole)
    assert flatten_requests(table.slice(0, 0)).num_rows == 0
    assert flatten_requests(table.slice(0, 0)).schema == whole.schema
