"""Entity keys: canonical, and no two entities share one."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.stream.keys import encode_keys
from dovetail.platform.errors import StateError

_TEXTS = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(("a", "ab", "b", "s", "i", "")))
_ROWS = st.lists(st.tuples(_TEXTS, st.one_of(st.none(), st.integers(-2, 2)), _TEXTS), max_size=30)


@given(_ROWS)
def test_rows_share_a_key_exactly_when_they_are_the_same_entity(rows: list[tuple[Any, ...]]) -> None:
    types = (pa.string(), pa.int64(), pa.string())
    columns = [pa.array([row[i] for row in rows], types[i]) for i in range(3)]
    keys, codes = encode_keys(columns)
    assert len(set(keys)) == len(keys)
    entities = [None if None in row else row for row in rows]
    assert [code < 0 for code in codes.tolist()] == [entity is None for entity in entities]
    by_key = {(keys[c], e) for c, e in zip(codes.tolist(), entities, strict=True) if e is not None}
    assert len({key for key, _ in by_key}) == len({e for _, e in by_key}) == len(by_key) == len(keys)
    for row, code in zip(rows, codes.tolist(), strict=True):
        if code >= 0:
            alone = encode_keys([pa.array([row[i]], types[i]) for i in range(3)])
            assert alone[0] == [keys[code]]


def test_keys_come_in_order_of_first_appearance() -> None:
    keys, codes = encode_keys([pa.array([7, None, 5, 7])])
    assert codes.tolist() == [0, -1, 1, 0]
    assert keys == [b"i" + (7).to_bytes(8, "big"), b"i" + (5).to_bytes(8, "big")]


def test_the_width_of_integers_and_the_layout_of_columns_do_not_matter() -> None:
    plain = encode_keys([pa.array([-1, 300], pa.int64()), pa.array(["x", "y"])])
    other = encode_keys(
        [
            pa.chunked_array([pa.array([-1], pa.int16()), pa.array([300], pa.int16())]),
            pa.array(["x", "y"], pa.large_string()).dictionary_encode(),
        ]
    )
    assert plain[0] == other[0]
    assert plain[1].tolist() == other[1].tolist()


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([True, False], pa.bool_()),
        ([dt.date(1969, 12, 31), dt.date(2024, 2, 29)], pa.date32()),
        ([dt.datetime(1969, 12, 31), dt.datetime(2024, 2, 29)], pa.timestamp("us")),  # noqa: DTZ001
        ([Decimal("-0.01"), Decimal("1.00")], pa.decimal128(18, 2)),
    ],
)
def test_every_type_with_canonical_bytes(values: list[Any], type_: pa.DataType) -> None:
    keys, codes = encode_keys([pa.array([*values, *reversed(values)], type_)])
    assert codes.tolist() == [0, 1, 1, 0]
    assert len({*keys}) == 2
    assert encode_keys([pa.array(values[1:], type_)])[0] == keys[1:]


def test_no_rows() -> None:
    for columns in ([pa.array([], pa.int64())], [pa.array([], pa.int64()), pa.array([], pa.string())]):
        keys, codes = encode_keys(columns)
        assert keys == []
        assert codes.tolist() == []


def test_all_parts_null() -> None:
    keys, codes = encode_keys([pa.nulls(2, pa.int64()), pa.array(["a", "b"])])
    assert keys == []
    assert codes.tolist() == [-1, -1]


@pytest.mark.parametrize("type_", [pa.float64(), pa.list_(pa.int64()), pa.decimal128(30, 2), pa.uint64()])
def test_types_without_canonical_bytes_are_refused(type_: pa.DataType) -> None:
    with pytest.raises(StateError, match=r"entity column of type .* has no canonical bytes; use integers"):
        encode_keys([pa.nulls(1, type_)])
