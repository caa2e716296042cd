"""Samples as arrays: dense numbers, hashed values with lengths, sequences padded or jagged, labels as floats."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.samples.tensors import Columns, Sequences, arrays_of
from dovetail.trainer.samples.encoding import Encoder, InputSpec

ROWS = pa.table(
    {
        "label": pa.array([0, 1, None], pa.int8()),
        "weight": pa.array([1.0, 0.5, None], pa.float32()),
        "paid": pa.array(["1.50", None, "2.00"]).cast(pa.decimal128(9, 2)),
        "price": [1.5, None, -2.0],
        "clicks": pa.array([3, 2**40, None], pa.int64()),
        "new": [True, None, False],
        "city": ["a", None, "a"],
        "tags": pa.array([["x", "y"], None, ["x"]], pa.list_(pa.string())),
        "seen": pa.array([[1, 2, 3], [], None], pa.list_(pa.int64())),
    }
)


def test_numbers_are_floats_and_labels_are_what_every_trainer_reads() -> None:
    made = arrays_of(ROWS, Columns(dense=["price", "clicks", "new", "paid"], fill=-1))
    assert made["dense"].dtype == np.float32
    assert made["dense"].tolist() == [[1.5, 3, 1, 1.5], [-1, 2**40, -1, -1], [-2, -1, 0, 2]]
    assert made["label"].dtype == made["weight"].dtype == np.float32
    assert np.array_equal(made["label"], [0, 1, np.nan], equal_nan=True)
    assert made["weight"].tolist() == [1, 0.5, 1]
    several = arrays_of(ROWS, Columns(label=["label", "paid"], weight=None))
    assert several["label"].shape == (3, 2)
    assert "weight" not in several
    assert np.array_equal(several["label"], [[0, 1.5], [1, np.nan], [np.nan, 2]], equal_nan=True)


def test_hashed_values_are_the_slots_of_the_own_trainer() -> None:
    made = arrays_of(ROWS, Columns(sparse=["city", "tags", "clicks"], bits=16))["sparse"]
    values, lengths = made["city"]
    assert (values.dtype, lengths.dtype) == (np.int64, np.int32)
    slots, _ = Encoder([InputSpec("city")], bits=16).encode(ROWS)[:2]
    assert values.tolist() == np.asarray(slots)[:, 0].tolist()
    assert lengths.tolist() == [1, 1, 1]
    assert values[0] == values[2] != values[1]
    values, lengths = made["tags"]
    assert lengths.tolist() == [2, 0, 1]
    assert values[0] == values[2] != values[1]
    assert made["tags"][0][0] != made["city"][0][0]
    kept = arrays_of(ROWS, Columns(sparse=["city"], bits=1, reserve_zero=True))["sparse"]["city"][0]
    assert kept.tolist() == [1, 1, 1]


def test_sequences_are_padded_or_jagged() -> None:
    columns = Columns(
        sequences=[Sequences("seen", length=2, numeric=True, padding=-1), Sequences("tags", length=3)],
        bits=20,
        reserve_zero=True,
    )
    made = arrays_of(ROWS, columns)["sequences"]
    assert made["seen"][0].tolist() == [[1, 2], [-1, -1], [-1, -1]]
    assert made["seen"][1].tolist() == [2, 0, 0]
    values, lengths = made["tags"]
    assert (values.shape, lengths.tolist()) == ((3, 3), [2, 0, 1])
    assert (values == 0).tolist() == [[False, False, True], [True] * 3, [False, True, True]]
    jagged, lengths = arrays_of(ROWS, Columns(sequences=[Sequences("seen", numeric=True)]))["sequences"]["seen"]
    assert (jagged.tolist(), lengths.tolist()) == ([1, 2, 3], [3, 0, 0])
    assert jagged.dtype == np.float32
    sliced = arrays_of(ROWS.slice(1), columns)["sequences"]
    assert sliced["seen"][1].tolist() == [0, 0]
    assert arrays_of(ROWS.slice(0, 0), columns)["sequences"]["seen"][0].shape == (0, 2)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"dense": ["prise"]}, "no column 'prise'; .*price"),
        ({"dense": ["city"]}, "column 'city' is string, which is no number"),
        ({"sequences": [Sequences("city")]}, "'city' is string, which is no list"),
        ({"bits": 63}, "bits = 63"),
    ],
)
def test_what_does_not_fit_is_named(columns: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        arrays_of(ROWS, Columns(**columns))  # type: ignore[arg-type]


def test_lists_that_candidates_share_are_made_once_for_each_request() -> None:
    index = pa.array([1, 1, 0, 1, 2], pa.int32())
    rows = pa.table(
        {
            "label": pa.array([0, 1, 0, 0, 1], pa.int8()),
            "tags": pa.DictionaryArray.from_arrays(index, ROWS.column("tags").combine_chunks()),
            "seen": pa.DictionaryArray.from_arrays(index, ROWS.column("seen").combine_chunks()),
        }
    )
    once = [
        Sequences("seen", length=2, numeric=True, padding=-1, per_request=True),
        Sequences("tags", per_request=True),
    ]
    each = [Sequences("seen", length=2, numeric=True, padding=-1), Sequences("tags")]
    made, flat = (arrays_of(rows, Columns(sequences=s, weight=None))["sequences"] for s in (once, each))
    assert Columns(sequences=once).per_request
    assert not Columns(sequences=each).per_request
    values, lengths, of_row = made["seen"]
    assert values.tolist() == [[-1, -1], [1, 2], [-1, -1]]  # in the order in which rows come to them
    assert of_row.dtype == np.int64
    assert values[of_row].tolist() == flat["seen"][0].tolist()
    assert lengths[of_row].tolist() == flat["seen"][1].tolist()
    values, lengths, of_row = made["tags"]
    lists = np.split(values, np.cumsum(lengths)[:-1])
    assert np.concatenate([lists[row] for row in of_row]).tolist() == flat["tags"][0].tolist()
    # A plain column has a list for each row, and rows of several chunks count on.
    whole = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    values, lengths, of_row = arrays_of(whole, Columns(sequences=once, weight=None))["sequences"]["seen"]
    assert values[of_row].tolist() == flat["seen"][0].tolist()
    values, lengths, of_row = arrays_of(ROWS, Columns(sequences=once, weight=None))["sequences"]["seen"]
    assert (values.shape, of_row.tolist()) == ((3, 2), [0, 1, 2])
