"""Entropy, skewness and kurtosis against exact fractions and against DuckDB's own."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features.kernels.shapes import entropy, moments, shaped
from dovetail.features.kernels.words import Words
from tests.generated import tries

_LIMIT = 2**63 - 1
_NUMBERS = st.integers(-3, 3) | st.sampled_from((_LIMIT, -_LIMIT, 10**9, 10**9 + 1)) | st.integers(-(10**6), 10**6)
_VALUES = st.lists(_NUMBERS, max_size=12)


def _counted(values: list[int]) -> tuple[Words, Words, Words]:
    counts = sorted(Counter(values).items())
    words, times = ([pair[at] for pair in counts] for at in (0, 1))
    return np.array(words, np.int64), np.array(times, np.int64), np.array([len(counts)])


def _exact(kind: str, values: list[int]) -> float | None:
    n = len(values)
    least = {"skewness": 3, "kurtosis": 4, "kurtosis_pop": 2}[kind]
    if n < least or len(set(values)) < 2:
        return None
    mean = Fraction(sum(values), n)
    second, third, fourth = (sum((v - mean) ** k for v in values) / n for k in (2, 3, 4))
    if kind == "skewness":
        return math.copysign(math.sqrt(third**2 / second**3), third) * math.sqrt(n * (n - 1)) / (n - 2)
    excess = fourth / second**2 - 3
    if kind == "kurtosis":
        excess = Fraction(n - 1, (n - 2) * (n - 3)) * ((n + 1) * (excess + 3) - 3 * (n - 1))
    return float(excess)


@pytest.mark.parametrize("kind", ["skewness", "kurtosis", "kurtosis_pop"])
@settings(deadline=None, max_examples=tries(100))
@given(many=st.lists(_VALUES, max_size=4))
def test_moments_are_those_of_exact_fractions(kind: str, many: list[list[int]]) -> None:
    parts = [_counted(values) for values in many]
    words, counts, lengths = (np.concatenate([np.zeros(0, np.int64), *(p[i] for p in parts)]) for i in range(3))
    found = moments(kind, words, counts, lengths).to_pylist()
    for got, wanted in zip(found, [_exact(kind, values) for values in many], strict=True):
        assert got == wanted if wanted is None else math.isclose(got, wanted, rel_tol=1e-13, abs_tol=1e-13)


@settings(deadline=None, max_examples=tries(30))
@given(values=st.lists(st.none() | st.integers(-50, 50), max_size=20))
def test_all_are_duckdbs(values: list[int | None]) -> None:
    """Where DuckDB's sums of powers do not cancel; NULL where it says so."""
    words, counts, lengths = _counted([value for value in values if value is not None])
    query = "SELECT entropy(x), skewness(x), kurtosis(x), kurtosis_pop(x) FROM (SELECT unnest(?::BIGINT[]) AS x)"
    with duckdb.connect() as connection:
        theirs = connection.execute(query, [values]).fetchall()[0]
    every = np.ones(1, np.bool_)
    for kind, wanted in zip(("entropy", "skewness", "kurtosis", "kurtosis_pop"), theirs, strict=True):
        got = shaped(kind, words, counts, lengths, every)[0].as_py()
        assert got == wanted if wanted is None else math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-9), kind


def test_counts_of_a_busy_window_do_not_overflow() -> None:
    words, counts = np.array([-_LIMIT, 0, _LIMIT]), np.array([1 << 58, 1 << 59, 1 << 58])
    assert moments("kurtosis_pop", words, counts, np.array([3])).to_pylist() == [pytest.approx(-1.0, abs=1e-12)]
    assert moments("skewness", words, counts, np.array([3])).to_pylist() == [0.0]
    assert entropy(counts, np.array([3])).to_pylist() == [1.5]


def test_what_is_not_answerable_is_null() -> None:
    one = np.ones(2, np.int64)
    assert shaped("entropy", one, one, one, np.array([True, False])).to_pylist() == [0.0, None]
