"""Keys are decoded to the values they were made of."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.stream.keys import decode_keys, encode_keys
from dovetail.platform.errors import StateError

VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.text(st.characters(codec="utf-8"))),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.int8(), st.integers(-128, 127)),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), st.datetimes()),
    (pa.decimal128(12, 2), st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(n).scaleb(-2))),
]


@given(data=st.data(), columns=st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
def test_decoding_is_the_inverse_of_encoding(data: st.DataObject, columns: list[Any]) -> None:
    rows = data.draw(st.lists(st.tuples(*(values for _, values in columns)), min_size=1, max_size=5))
    types = [type_ for type_, _ in columns]
    arrays = [pa.array([row[at] for row in rows], type_) for at, type_ in enumerate(types)]
    keys, codes = encode_keys(arrays)
    decoded = decode_keys(keys, types)
    for array, found in zip(arrays, decoded, strict=True):
        assert found.take(pa.array(codes)).equals(array)


def test_a_key_of_something_else_is_refused() -> None:
    keys, _ = encode_keys([pa.array([1]), pa.array([dt.date(2024, 1, 1)])])
    with pytest.raises(StateError, match="is none of"):
        decode_keys(keys, [pa.int64()])
