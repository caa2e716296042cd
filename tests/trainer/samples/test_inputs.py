"""Lists, crosses and standardised inputs; explanations and the collision report."""

from __future__ import annotations

import doctest
import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.contributions import BIAS, collisions, explain
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples import moments as moments_module
from dovetail.trainer.samples.encoding import Encoder, InputSpec


def test_a_list_takes_a_place_per_element() -> None:
    table = pa.table({"tags": pa.array([["a", "b", "c", "d"], ["b"], [], None, ["a", None]], pa.list_(pa.string()))})
    slots, values = Encoder([InputSpec("tags", "list", length=3)], 24).encode(table)
    assert slots.shape == (5, 4)
    assert values[:, :3].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]]
    a, b = slots[0, 0], slots[0, 1]
    assert (slots[1, 0], slots[4, 0]) == (b, a)
    empty, null, null_element = slots[2, 0], slots[3, 0], slots[4, 1]
    assert null == null_element
    assert len({a, b, empty, null}) == 4
    # Padding of different places differs, so that a padded row does not look as if it repeated a slot.
    assert len(set(slots[1, 1:3].tolist())) == 2


def test_lists_in_a_dictionary_encode_alike() -> None:
    type_ = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
    lists = pa.array([[("a", 1.0), ("b", None)], None, [], [("c", 3.0)] * 9, [("unused", 1.0)]], type_)
    shared = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1, 2, 3, 3, 0], pa.int32()), lists)
    columns = pa.chunked_array([shared.slice(1, 3), shared.slice(4)])
    encoder = Encoder([InputSpec("ids", "list", length=4)], 24)
    encoded = encoder.encode(pa.table({"ids": columns}))
    plain = encoder.encode(pa.table({"ids": shared.slice(1).dictionary_decode()}))
    assert encoded.slots.tolist() == plain.slots.tolist()
    assert encoded.values.tolist() == plain.values.tolist()
    table = pa.table({"ids": columns})
    assert encoder.hashes(table).tolist() == encoder.hashes(decoded(table)).tolist()


@pytest.mark.parametrize("type_", [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)])
def test_lists_of_every_storage_encode_alike(type_: pa.DataType) -> None:
    rows = [[1, 2], [3, 4], [1, 3]]
    encoder = Encoder([InputSpec("ids", "list", length=2)], 24)
    plain = encoder.encode(pa.table({"ids": pa.array(rows, pa.list_(pa.int64()))}))
    for table in (pa.table({"ids": pa.array(rows, type_)}), pa.table({"ids": pa.array([[9, 9], *rows], type_)})[1:]):
        assert encoder.encode(table).slots.tobytes() == plain.slots.tobytes()


def test_named_numbers_carry_their_value() -> None:
    type_ = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
    rows: list[list[tuple[str, float | None]]] = [
        [("x", 0.5), ("y", -2.0)],
        [("x", math.nan)],
        [("x", 1e300)],
        [("x", None)],
    ]
    table = pa.table({"f": pa.array([[{"name": n, "value": v} for n, v in row] for row in rows], type_)})
    slots, values = Encoder([InputSpec("f", "list", length=2)], 24).encode(table)
    assert values[:, :2].tolist() == [[0.5, -2.0], [1, 0], [1, 0], [1, 0]]
    assert slots[1, 0] == slots[2, 0] == slots[3, 0] != slots[0, 0]


def test_a_cross_depends_on_all_its_columns_and_on_their_order() -> None:
    table = pa.table({"a": ["x", "x", "y", None], "b": [1, 2, 1, 1]})
    ab = Encoder([InputSpec(kind="cross", columns=("a", "b"))], 24).encode(table).slots[:, 0]
    assert len(set(ab.tolist())) == 4
    ba = Encoder([InputSpec(kind="cross", columns=("b", "a"))], 24).encode(table).slots[:, 0]
    assert not set(ab.tolist()) & set(ba.tolist())
    chunked = pa.table({"a": pa.chunked_array([["x"], ["x", "y", None]]), "b": pa.chunked_array([[1, 2, 1], [1]])})
    again = Encoder([InputSpec(kind="cross", columns=("a", "b"))], 24).encode(chunked).slots[:, 0]
    assert again.tolist() == ab.tolist()
    assert len(Encoder([InputSpec(kind="cross", columns=("a", "b"))], 24).encode(table[:0]).slots) == 0


def test_standardised_inputs_see_the_rows_before_them() -> None:
    assert doctest.testmod(moments_module).failed == 0
    table = pa.table({"x": [1.0, 3.0, None, math.inf, 1e200, 5.0, -1e9]})
    encoder = Encoder([InputSpec("x", "standardised")], 24)
    moments = encoder.new_moments()
    slots, values = encoder.encode(table, moments, np.ones(7, np.float32))
    assert values[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 3.0, -10.0]
    assert slots[2, 0] == slots[3, 0] == slots[4, 0] != slots[0, 0]
    assert moments[0, 0] == 4
    # Without moments the input is absent; with them, scoring changes nothing.
    assert encoder.encode(table).values[0, 0] == 0
    before = moments.tobytes()
    frozen = encoder.encode(table, moments)
    assert frozen.values[0, 0] == pytest.approx((1 - moments[0, 1]) / math.sqrt(moments[0, 2] / 4))
    assert moments.tobytes() == before
    encoder.encode(table, moments, np.zeros(7, np.float32))
    assert moments.tobytes() == before


@given(cuts=st.lists(st.integers(0, 40), max_size=4))
def test_standardised_training_does_not_depend_on_cuts(cuts: list[int]) -> None:
    rng = np.random.default_rng(3)
    table = pa.table({"x": rng.normal(100, 7, 40), "y": rng.exponential(2, 40), "label": rng.random(40) < 0.4})
    inputs = [InputSpec("x", "standardised"), InputSpec("y", "standardised"), InputSpec("x", "numeric")]
    whole, pieces = (Learner(Encoder(inputs, 8), Ftrl(), label="label") for _ in range(2))
    whole.learn(table)
    for a, b in pairwise([0, *sorted(cuts), 40]):
        pieces.learn(table.slice(a, b - a))
    assert whole.records.tobytes() == pieces.records.tobytes()
    assert whole.moments.tobytes() == pieces.moments.tobytes()


def test_an_explanation_sums_to_the_margin() -> None:
    table = pa.table({"city": ["Wien", None], "n": [3.0, -1.0], "tags": [["a", "b"], []], "x": pa.array([1.0, 2.0])})
    inputs = [
        InputSpec("city"), InputSpec("n", "numeric"), InputSpec("tags", "list", length=3),
        InputSpec(kind="cross", columns=("city", "n")), InputSpec("x", "standardised"),
    ]  # fmt: skip
    encoder = Encoder(inputs, 12)
    weights = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    moments = np.array([[5.0, 0.0, 5.0]])
    shown = explain(encoder, weights, table, moments)
    slots, values = encoder.encode(table, moments)
    for row in (0, 1):
        mine = [each for each in shown.to_pylist() if each["row"] == row]
        margin = float((weights[slots[row]].astype(np.float64) * values[row]).sum())
        assert sum(each["contribution"] for each in mine) == pytest.approx(margin)
        sizes = [abs(each["contribution"]) for each in mine]
        assert sizes == sorted(sizes, reverse=True)
    seen = {(each["row"], each["input"], each["value"]) for each in shown.to_pylist()}
    assert seen == {
        (0, "city", "Wien"), (0, "n", "3.0"), (0, "tags", "a"), (0, "tags", "b"), (0, "city*n", "Wien*3.0"),
        (0, "x", "1.0"), (0, BIAS, ""), (1, "city", None), (1, "n", "-1.0"), (1, "tags", "[]"),
        (1, "city*n", "None*-1.0"), (1, "x", "2.0"), (1, BIAS, ""),
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"8 weights for an encoder of 2\*\*12 slots"):
        explain(encoder, weights[:8], table)


def test_collisions_are_counted() -> None:
    table = pa.table({"id": np.arange(600), "x": np.ones(600)})
    inputs = [InputSpec("id"), InputSpec("x", "standardised")]
    few = {row["input"]: row for row in collisions(Encoder(inputs, 8), table).to_pylist()}
    assert few["id"]["values"] == 600
    assert few["id"]["slots"] <= 256
    assert few["id"]["share"] > 0.8
    many = {row["input"]: row for row in collisions(Encoder(inputs, 30), table).to_pylist()}
    assert many["(all)"]["values"] == 601
    assert many["(all)"]["colliding"] <= 2
    assert few["x"]["values"] == 1
    assert collisions(Encoder(inputs, 8), table[:0]).to_pylist()[-1]["share"] == 0.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"column": "a", "length": 3}, "'a' is categorical but has length; remove them or declare it list"),
        (
            {"column": "a", "kind": "list"},
            r"'a' is a list, and length = 0 does not say .*; write a length from 1 to 1024",
        ),
        ({"column": "a", "kind": "cross", "columns": ("a", "b")}, "only a cross has columns instead of a column"),
        ({"columns": ("a", "b")}, "is categorical but has columns"),
        ({"kind": "numeric"}, "only a cross has columns instead of a column"),
        ({"kind": "cross", "columns": ("a", "a")}, r"'a\*a': a cross is of different columns; give two or more"),
    ],
)
def test_wrong_declarations_are_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputSpec(**spec)  # type: ignore[arg-type]


def test_columns_that_are_no_lists_are_refused() -> None:
    encoder = Encoder([InputSpec("a", "list", length=2)], 8)
    with pytest.raises(WireError, match="'a' is int64, which is no list"):
        encoder.encode(pa.table({"a": [1]}))
    struct = pa.array([[{"x": 1, "y": 2, "z": 3}]])
    with pytest.raises(WireError, match="its elements must be names, or structs of a name and a number"):
        encoder.encode(pa.table({"a": struct}))
