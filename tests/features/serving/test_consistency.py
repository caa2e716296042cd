"""Comparing served with recomputed values: bit for bit, and an error must show."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from dovetail.features.stored.consistency import compare, equal_bits


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (pa.array([1, None, 3]), pa.array([1, None, 4]), [True, True, False]),
        (pa.array([1, None]), pa.array([None, 1], pa.int64()), [False, False]),
        (pa.array([0.0, float("nan"), 0.1]), pa.array([-0.0, float("nan"), 0.1]), [False, True, True]),
        (pa.array([0.1 + 0.2]), pa.array([0.3]), [False]),
        (pa.array(["a", None, "b"]), pa.array(["a", "", "b"]), [True, False, True]),
        (pa.array([[1], None, [2]]), pa.array([[1], [], [2]]), [True, False, True]),
        (pa.array([1], pa.int64()), pa.array([1], pa.int32()), [False]),
        (pa.array([1.5], pa.float32()), pa.array([1.5], pa.float32()), [True]),
    ],
)
def test_equal_bits(left: pa.Array, right: pa.Array, equal: list[bool]) -> None:
    assert equal_bits(pa.chunked_array([left]), pa.chunked_array([right])).tolist() == equal


def test_a_mismatch_is_counted_and_shown_and_late_values_are_told_apart() -> None:
    keys = {
        "request_id": ["a", "b", "c"],
        "item_id": [1, 2, 3],
        "request_time": [dt.datetime(2024, 1, 1)] * 3,  # noqa: DTZ001 - timestamps here have no zone, they are UTC
    }
    served = pa.table({**keys, "x": [1.0, 2.0, 3.0], "y": [1, 2, 3]})
    as_served = pa.table({"x": [1.0, np.nextafter(2.0, 3.0), 3.0], "y": [1, 2, 3]})
    event_time = pa.table({"x": [1.0, 5.0, 4.0], "y": [1, 2, 3]})
    result = compare(served, as_served, event_time, ["x", "y"])
    assert (result.compared, result.mismatched, result.late) == (6, 1, 1)
    (example,) = result.features[0].examples
    assert (example.request_id, example.item_id, example.served) == ("b", "2", "2.0")
    assert example.recomputed == "2.0000000000000004"
    assert result.to_json()["features"][1] == {
        "feature": "y",
        "compared": 3,
        "equal": 3,
        "mismatched": 0,
        "late": 0,
        "examples": [],
    }
