"""The stability index is that of its formula, and is within chance where nothing has moved."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.app.quality.profiles import plain_columns, profiles_of
from dovetail.app.quality.psi import merged, shift
from tests.generated import tries

Floats = npt.NDArray[np.float64]


def test_two_bins_by_hand() -> None:
    found = shift({"a": 60, "b": 40}, {"a": 20, "b": 79, "c": 1}, number=False)
    assert found is not None
    n, m = 100 + 1.5, 100 + 1.5
    q, p = np.array([60.5, 40.5, 0.5]) / n, np.array([20.5, 79.5, 1.5]) / m
    assert found == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert found.chance == pytest.approx((2 + 3 * math.sqrt(4)) * (1 / 100 + 1 / 100))
    assert shift({}, {"a": 1}, number=False) is None
    assert shift({"a": 1}, {}, number=True) is None


def numbers(values: Floats) -> dict[str | int | None, int]:
    (profile,) = profiles_of("d", ["x"], pa.table({"x": pa.array(values, from_pandas=True)}), 0)
    return dict(profile.histogram)


@settings(max_examples=tries(25), deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["normal", "exponential", "integers"]))
def test_samples_of_one_thing_are_within_chance(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)

    def draw(n: int) -> Floats:
        if kind == "normal":
            return rng.normal(0, 3, n)
        return rng.exponential(10, n) if kind == "exponential" else np.asarray(rng.poisson(4, n), np.float64)

    reference, same = numbers(draw(4_000)), numbers(draw(2_000))
    found = shift(reference, same, number=True)
    assert found is not None
    assert found < 2 * found.chance
    scaled = shift(reference, numbers(100 * draw(2_000)), number=True)
    assert scaled is not None
    assert scaled > 0.25 + scaled.chance
    # Each window is as good as all together.
    whole, halves = numbers(np.concatenate([draw(100), draw(50)])), [numbers(draw(10)) for _ in range(3)]
    assert sum(whole.values()) == 150
    assert sum(merged(halves).values()) == 30


def test_every_type_has_a_profile() -> None:
    table = pa.table(
        {
            "flag": pa.array([True, None, False]),
            "text": ["a", "b", "a"],
            "wild": pa.array([float("nan"), float("inf"), 2.0]),
            "tags": pa.array([["a"], None, ["a", "b"]], pa.list_(pa.string())),
            "counts": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
            "both": pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.int64())])),
            "at": pa.array([1, 2, None], pa.timestamp("us")),
            "price": pa.array([Decimal(1), Decimal(2), None], pa.decimal128(12, 2)),
        }
    )
    found = {each.column: each for each in profiles_of("d", table.column_names, plain_columns(table), 5)}
    assert {name: each.kind for name, each in found.items() if each.kind == "number"} == dict.fromkeys(
        ("wild", "tags", "counts", "price"), "number"
    )
    nulls = {name for name, each in found.items() if each.null_share == 1 / 3}
    assert nulls == {"flag", "tags", "counts", "both", "at", "price"}
    assert (found["wild"].low, found["wild"].high) == (2.0, 2.0)
    assert found["tags"].quantiles is not None
    assert found["tags"].quantiles[2] == 1.5
    assert found["text"].histogram == {"a": 2, "b": 1}
    assert profiles_of("d", ["text"], plain_columns(table.slice(0, 0)), 5) == []
