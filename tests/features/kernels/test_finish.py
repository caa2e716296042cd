"""The shared finisher: means against Fractions, decimal words against Arrow."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features.kernels import finish
from dovetail.features.kernels.wide import spread
from dovetail.features.kernels.words import canonical_floats, decimal_array, decimal_words
from dovetail.platform.errors import StateError
from tests.generated import tries

_LIMIT = 10**38 - 1
_SUMS = st.one_of(st.integers(-_LIMIT, _LIMIT), st.integers(-(2**54), 2**54), st.sampled_from((_LIMIT, -_LIMIT)))
_COUNTS = st.one_of(st.integers(1, 2**62 - 1), st.integers(1, 1000))


def _words(numbers: list[int]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    lo = np.array([n & (1 << 64) - 1 for n in numbers], dtype=np.uint64)
    return lo, np.array([n >> 64 for n in numbers], dtype=np.int64)


@given(st.lists(st.tuples(_SUMS, _COUNTS), min_size=1, max_size=50), st.integers(0, 18))
@settings(deadline=None, max_examples=tries(200))
def test_avg_is_the_double_nearest_to_the_exact_mean(cases: list[tuple[int, int]], scale: int) -> None:
    counts = np.array([count for _, count in cases], dtype=np.int64)
    means = finish.avg(*_words([total for total, _ in cases]), counts, scale)
    assert means.to_pylist() == [float(Fraction(total, count * 10**scale)) for total, count in cases]


def test_avg_rounds_ties_to_even() -> None:
    totals = [2**53 + 1, 2**53 + 3, -(2**53) - 1, (2**53 + 1) * 3]
    means = finish.avg(*_words(totals), np.array([1, 1, 1, 3]), 0)
    assert means.to_pylist() == [2.0**53, 2.0**53 + 4, -(2.0**53), 2.0**53]


def test_avg_is_duckdbs_or_the_double_next_to_it() -> None:
    rng = np.random.default_rng(7)
    table = pa.table({"i": np.arange(2000), "x": rng.integers(-(2**62), 2**62, 2000)})
    with duckdb.connect() as connection:
        connection.register("t", table)
        answer = connection.sql(
            "SELECT avg(x) OVER w AS mean, CAST(sum(x) OVER w AS DECIMAL(38,0)) AS total, count(*) OVER w AS n "
            "FROM t WINDOW w AS (ORDER BY i ROWS BETWEEN 77 PRECEDING AND CURRENT ROW)"
        ).to_arrow_table()
    means = finish.avg(*decimal_words(answer["total"]), answer["n"].to_numpy(), 0).to_numpy()
    theirs = answer["mean"].to_numpy()
    assert (np.abs(means - theirs) <= np.spacing(np.abs(theirs))).all()


def test_avg_over_nothing_is_null_whatever_the_words_say() -> None:
    means = finish.avg(*_words([2**126, 7]), np.array([0, 2]), 1)
    assert means.to_pylist() == [None, 0.35]


def test_a_sum_of_39_digits_is_refused() -> None:
    present = np.array([True, True])
    for wrong in (10**38, -(10**38), 2**127 - 1, -(2**127)):
        with pytest.raises(StateError, match=f"avg: row 1 has a sum of {wrong}, which does not fit"):
            finish.avg(*_words([1, wrong]), np.array([1, 1]), 0)
        with pytest.raises(StateError, match=r"sum: row 1 .* use a shorter window"):
            decimal_array(*_words([1, wrong]), present, pa.decimal128(38, 0))
    widest = decimal_array(*_words([_LIMIT, -_LIMIT]), present, pa.decimal128(38, 0))
    assert widest.to_pylist() == [Decimal(_LIMIT), Decimal(-_LIMIT)]


@given(st.lists(st.one_of(st.none(), st.integers(-_LIMIT, _LIMIT)), max_size=30), st.integers(0, 5))
def test_decimal_words_and_back(numbers: list[int | None], cut: int) -> None:
    type_ = pa.decimal128(38, 0)
    array = pa.array([None if n is None else Decimal(n) for n in numbers], type_)[cut:]
    lo, hi = decimal_words(array)
    assert [(int(h) << 64) + int(w) for w, h in zip(lo, hi, strict=True)] == [n or 0 for n in numbers[cut:]]
    present = np.array([n is not None for n in numbers[cut:]], dtype=np.bool_)
    assert decimal_array(lo, hi, present, type_).equals(array)


def test_decimal_words_of_chunks_are_those_of_the_whole() -> None:
    chunked = pa.chunked_array([pa.array([Decimal("1.5")]), pa.array([Decimal("-2.5"), None])])
    lo, hi = decimal_words(chunked)
    assert lo.view(np.int64).tolist() == [15, -25, 0]
    assert hi.tolist() == [0, -1, 0]


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()])
def test_canonical_floats_have_one_zero_and_one_nan(type_: pa.DataType) -> None:
    odd_nan = np.array([0xFFF8000000000001], dtype=np.uint64).view(np.float64)[0]
    array = pa.chunked_array([pa.array([-0.0, odd_nan, None], type_), pa.array([-math.inf, 1.5], type_)])
    canonical = canonical_floats(array)
    assert canonical.type == type_
    assert canonical.null_count == 1
    zero, nan, _, least, other = canonical.to_pylist()
    assert math.copysign(1, zero) == 1
    assert math.copysign(1, nan) == 1
    assert math.isnan(nan)
    assert (least, other) == (-math.inf, 1.5)


@given(
    st.lists(st.integers(-(10**14) + 1, 10**14 - 1) | st.integers(-2, 2), max_size=30), st.integers(0, 3), st.booleans()
)
def test_deviations_are_the_exact_fraction_within_two_units(values: list[int], scale: int, sample: bool) -> None:
    count, total, squares = len(values), sum(values), sum(v * v for v in values)
    words = [np.array([w & 2**64 - 1], dtype=np.uint64) for w in (total, squares)]
    highs = [np.array([w >> 64], dtype=np.int64) for w in (total, squares)]
    one = np.array([count])
    (got,) = finish.deviation(words[0], highs[0], words[1], highs[1], one, scale, sample=sample, root=False).to_pylist()
    if count <= sample:
        assert got is None
        return
    exact = Fraction(count * squares - total * total, count * (count - sample) * 100**scale)
    assert abs(Fraction(got) - exact) <= 2 * Fraction(math.ulp(float(exact)))
    (root,) = finish.deviation(words[0], highs[0], words[1], highs[1], one, scale, sample=sample, root=True).to_pylist()
    assert root == math.sqrt(got)


@given(st.integers(-(2**80), 2**80), st.integers(0, 2**100), st.integers(0, 2**40))
def test_the_numerator_is_rounded_once(total: int, more: int, count: int) -> None:
    squares = total * total // max(count, 1) + more  # Σx² is never below (Σx)² / n
    squares = min(squares, 2**127 - 1)
    exact = count * squares - total * total
    if exact < 0:
        return

    def words(value: int) -> tuple[int, int]:
        low = value & 2**64 - 1
        return low - 2**64 * (low >> 63), value >> 64

    assert spread(*words(total), *words(squares), count) == float(exact)
