"""XXH64 is what its specification says, whatever route a value takes to it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import WireError
from dovetail.trainer.samples.columns import hash_column, hash_column_into, number_column
from dovetail.trainer.samples.hashing import hash_bytes

PRIME32 = 2654435761
PRIME64 = 11400714785074694797


def sanity_buffer(length: int) -> bytes:
    """The generated input of xxHash's own self-test."""
    state, out = PRIME32, bytearray()
    for _ in range(length):
        out.append(state >> 56)
        state = state * PRIME64 % 2**64
    return bytes(out)


@pytest.mark.parametrize(
    ("length", "seed", "expected"),
    [
        (0, 0, 0xEF46DB3751D8E999),
        (0, PRIME32, 0xAC75FDA2929B17EF),
        (1, 0, 0xE934A84ADB052768),
        (1, PRIME32, 0x5014607643A9B4C3),
        (4, 0, 0x9136A0DCA57457EE),
        (14, 0, 0x8282DCC4994E35C8),
        (14, PRIME32, 0xC3BD6BF63DEB6DF0),
        (222, 0, 0xB641AE8CB691C174),
        (222, PRIME32, 0x20CB8AB7AE10C14A),
    ],
)
def test_published_vectors(length: int, seed: int, expected: int) -> None:
    assert hash_bytes(sanity_buffer(length), seed) == expected


@pytest.mark.parametrize(("text", "expected"), [("a", 0xD24EC4F1A98C6E5B), ("abc", 0x44BC2CF5AD770999)])
def test_published_words(text: str, expected: int) -> None:
    assert hash_bytes(text.encode()) == expected


@given(st.lists(st.one_of(st.none(), st.text(max_size=80))), st.integers(0, 3), st.sampled_from(["", "large", "view"]))
def test_string_columns_hash_as_their_bytes(texts: list[str | None], cut: int, storage: str) -> None:
    types = {"": pa.string(), "large": pa.large_string(), "view": pa.string_view()}
    array = pa.array(texts, pa.string()).cast(types[storage])[cut:]
    hashes = hash_column(array, column="c", seed=7, null=99)
    assert hashes.tolist() == [99 if text is None else hash_bytes(text.encode(), 7) for text in texts[cut:]]


def test_a_dictionary_hashes_as_its_values() -> None:
    plain = pa.array(["x", None, "y", "x"])
    nulls_in_dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], pa.int8()), pa.array(["x", None, "y"]))
    expected = hash_column(plain, column="c", seed=7, null=99).tolist()
    for array in (plain.dictionary_encode(), nulls_in_dictionary, pa.concat_arrays([plain, plain])[4:]):
        assert hash_column(array, column="c", seed=7, null=99).tolist() == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_hash_as_eight_little_endian_bytes(value: int) -> None:
    expected = hash_bytes(value.to_bytes(8, "little", signed=True), 7)
    for type_ in (pa.int8(), pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.decimal128(38, 3)):
        try:
            array = pa.array([value], type_) if not pa.types.is_decimal(type_) else pa.array([Decimal(value)], type_)
        except (pa.ArrowInvalid, OverflowError):
            continue
        assert hash_column(array, column="c", seed=7, null=99).tolist() == [expected], type_


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20))
def test_decimals_hash_by_value_whatever_their_scale(value: Decimal) -> None:
    hashes = {
        hash_column(pa.array([Decimal(0), value], pa.decimal128(38, scale))[1:], column="c", seed=7, null=99)[0]
        for scale in (4, 7, 12)
    }
    assert len(hashes) == 1


def test_decimals_that_differ_hash_differently() -> None:
    texts = ["1.5", "15", "0.15", "-1.5", "18446744073709551616", "1844674407370955161.6", "0", "-18446744073709551616"]
    array = pa.array([Decimal(text) for text in texts], pa.decimal128(38, 2))
    assert len(set(hash_column(array, column="c", seed=7, null=99).tolist())) == len(texts)


def test_narrow_decimals_hash_as_wide_ones() -> None:
    value = Decimal("12.50")
    narrow, wide = pa.array([value], pa.decimal32(9, 2)), pa.array([value], pa.decimal128(20, 2))
    assert hash_column(narrow, column="c", seed=7, null=99) == hash_column(wide, column="c", seed=7, null=99)


def test_times_hash_as_microseconds_and_booleans_as_bits() -> None:
    expected = hash_column(pa.array([86_400_000_000, 1]), column="c", seed=7, null=9).tolist()
    day = [
        pa.array([86_400], pa.timestamp("s")),
        pa.array([86_400_000_000_000], pa.timestamp("ns", tz="UTC")),
        pa.array([1], pa.date32()),
        pa.array([86_400], pa.duration("s")),
    ]
    assert [hash_column(array, column="c", seed=7, null=9)[0] for array in day] == expected[:1] * 4
    one = [pa.array([True]), pa.array([1], pa.time64("us")), pa.array([1000], pa.time64("ns"))]
    assert [hash_column(array, column="c", seed=7, null=9)[0] for array in one] == expected[1:] * 3


def test_floats_hash_by_value_with_nan_as_null() -> None:
    array = pa.array([0.0, -0.0, float("nan"), None, 1.5])
    zero, minus_zero, nan, null, other = hash_column(array, column="c", seed=7, null=99).tolist()
    assert zero == minus_zero != other
    assert nan == null == 99
    assert hash_column(pa.array([1.5], pa.float32()), column="c", seed=7, null=99) == other


def test_a_column_of_nulls_needs_no_type() -> None:
    assert hash_column(pa.nulls(2), column="c", seed=7, null=99).tolist() == [99, 99]
    assert np.isnan(number_column(pa.nulls(2), column="c")).all()


def test_numbers_of_every_storage() -> None:
    arrays = [
        pa.array([2, None], pa.int8()),
        pa.array([Decimal("2.00"), None], pa.decimal128(10, 2)),
        pa.array([2.0, float("nan")]),
        pa.array([2, None], pa.timestamp("us")),
        pa.array([2, None]).dictionary_encode(),
    ]
    for array in arrays:
        first, second = number_column(array, column="c").tolist()
        assert first == 2.0
        assert np.isnan(second)
    assert number_column(pa.array([True, False]), column="c").tolist() == [1.0, 0.0]


def test_unusable_types_are_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"'tags' is list<item: int64>, which cannot be hashed; use a string"):
        hash_column(pa.array([[1]]), column="tags", seed=7, null=99)
    with pytest.raises(WireError, match="'p' is decimal256"):
        hash_column(pa.array([Decimal(1)], pa.decimal256(50, 2)), column="p", seed=7, null=99)
    with pytest.raises(WireError, match="'city' is string, which has no numeric value; declare the input categorical"):
        number_column(pa.array(["x"]), column="city")


@pytest.mark.parametrize("dtype", [np.uint64, np.uint32])
def test_short_strings_hash_alike_at_every_place_of_a_buffer(dtype: Any) -> None:
    """Up to eight bytes are hashed eight strings at a time, and read eight bytes at once where the buffer has them."""
    texts = [sanity_buffer(length)[-length:] if length else b"" for length in [*range(41), *range(40, -1, -1)] * 9]
    for last in range(10):
        array = pa.array([*texts, None, b"x" * last], pa.binary())
        out = np.empty(len(array), dtype)
        hash_column_into(out, array, column="c", seed=2**63 + 5, null=99)
        expected = [*(hash_bytes(text, 2**63 + 5) for text in texts), 99, hash_bytes(b"x" * last, 2**63 + 5)]
        assert out.tolist() == [number & int(np.iinfo(dtype).max) for number in expected]


def test_empty_columns_hash_to_nothing_and_still_have_to_be_of_a_hashable_type() -> None:
    for type_ in (pa.string(), pa.large_binary(), pa.string_view(), pa.int32(), pa.bool_(), pa.decimal128(9, 2)):
        assert len(hash_column(pa.array([], type_), column="c", seed=7, null=99)) == 0
    with pytest.raises(WireError, match="cannot be hashed"):
        hash_column(pa.array([], pa.list_(pa.int8())), column="c", seed=7, null=99)
