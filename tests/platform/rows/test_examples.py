"""Made-up rows have every type that features may have."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dovetail.platform.rows.examples import example_rows

POINT = pa.struct([("x", pa.float64()), ("at", pa.timestamp("us"))])


@pytest.mark.parametrize(
    ("type_", "zero"),
    [
        (pa.bool_(), False),
        (pa.int8(), 0),
        (pa.uint64(), 0),
        (pa.float32(), 0.0),
        (pa.decimal128(12, 2), 0),
        (pa.string(), ""),
        (pa.large_string(), ""),
        (pa.binary(), b""),
        (pa.list_(pa.string()), [""]),
        (pa.large_list(pa.list_(pa.int32())), [[0]]),
        (pa.list_(pa.int16(), 3), [0, 0, 0]),
        (pa.map_(pa.string(), pa.int64()), [("", 0)]),
    ],
)
def test_a_row_of_zeros_and_one_of_nulls(type_: pa.DataType, zero: object) -> None:
    schema = pa.schema([pa.field("may", type_), pa.field("must", type_, nullable=False)])
    rows = example_rows(schema)
    assert rows.schema == schema
    assert rows.to_pylist() == [{"may": zero, "must": zero}, {"may": None, "must": zero}]


@pytest.mark.parametrize("type_", [pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"), POINT])
def test_times_and_structs(type_: pa.DataType) -> None:
    rows = example_rows(pa.schema([pa.field("may", type_)]))
    assert rows.column("may").null_count == 1
    if pa.types.is_struct(type_):
        assert rows.column("may").chunk(0).flatten()[1].null_count == 1
