"""Rows kept before a schema changed, as it is declared now."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from dovetail.platform.errors import WireError
from dovetail.platform.rows.evolution import conformed, fits

OLD = pa.table(
    {
        "n": pa.array([1, None], pa.int32()),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "text": ["7", "x"],
        "items": pa.array([[{"i": 1, "gone": 2}], []], pa.list_(pa.struct([("i", pa.int32()), ("gone", pa.int8())]))),
    }
)
MEMBERS = pa.struct([("i", pa.int64()), ("place", pa.int32())])


def test_missing_columns_are_null_and_narrow_ones_wider() -> None:
    declared = pa.schema(
        [("device", pa.string()), ("price", pa.decimal128(12, 2)), ("n", pa.int64()), ("items", pa.list_(MEMBERS))]
    )
    found = conformed(OLD, declared, called="here")
    assert found.select(declared.names).schema.types == declared.types
    assert found.column("text") == OLD.column("text")
    assert found.to_pylist()[0] == {
        "n": 1, "price": Decimal("1.50"), "text": "7", "items": [{"i": 1, "place": None}], "device": None
    }  # fmt: skip


def test_nothing_is_read_as_something_else() -> None:
    declared = pa.schema([("text", pa.int64())])
    with pytest.raises(WireError, match=r"here: text is string there, and declared int64 now: .*under another name"):
        conformed(OLD, declared, called="here")
    assert conformed(OLD, declared, called="here", strict=False) == OLD


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.int64(), pa.int32()),
        (pa.int32(), pa.float64()),
        (pa.float32(), pa.float64()),
        (pa.decimal128(9, 2), pa.decimal128(9, 3)),
        (pa.list_(pa.int64()), pa.list_(pa.int32())),
        (pa.struct([("i", pa.int64())]), pa.struct([("i", pa.int32())])),
        (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int32())),
    ],
)
def test_what_is_not_wider_does_not_fit(before: pa.DataType, after: pa.DataType) -> None:
    assert not fits(before, after)
    assert fits(before, before)


def test_maps_are_wider_where_their_parts_are() -> None:
    assert fits(pa.map_(pa.int32(), pa.uint64()), pa.map_(pa.int64(), pa.uint64()))
    maps = pa.table({"m": pa.array([[(1, 2)]], pa.map_(pa.int32(), pa.uint64()))})
    wide = pa.map_(pa.int64(), pa.uint64())
    assert conformed(maps, pa.schema([("m", wide)]), called="x").schema.field("m").type == wide


def test_of_a_struct_what_nothing_reads_may_have_been_anything() -> None:
    before = pa.struct(
        [("os", pa.string()), ("app", pa.struct([("name", pa.string()), ("v", pa.int32())])), ("ip", pa.int64())]
    )
    after = pa.struct(
        [("app", pa.struct([("v", pa.string()), ("name", pa.string())])), ("ip", pa.date32()), ("os", pa.string())]
    )
    table = pa.table({"s": pa.array([{"os": "a", "app": {"name": "n", "v": 3}, "ip": 1}, None], before)})
    declared = pa.schema([("s", after)])
    read = {"s": pa.struct([("app", pa.struct([("name", pa.string())])), ("os", pa.string())])}
    found = conformed(table, declared, called="here", read=read)
    assert found.schema.field("s").type == after
    assert found.column("s").to_pylist() == [{"app": {"v": None, "name": "n"}, "ip": None, "os": "a"}, None]
    assert conformed(table, declared, called="here", read={"s": pa.struct([])}).column("s").null_count == 2
    with pytest.raises(WireError, match=r"s is struct<os.*under another name"):
        conformed(table, declared, called="here", read={"s": pa.struct([("ip", pa.date32())])})
