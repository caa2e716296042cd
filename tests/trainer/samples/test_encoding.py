"""Encoding is per row, fixed for ever, and refuses what it cannot mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.samples.hashing import hash_bytes
from tests.generated import tries


def test_slots_are_the_documented_hash() -> None:
    encoder = Encoder([InputSpec("city")], bits=22)
    slots, values = encoder.encode(pa.table({"city": ["Wien", None, ""]}))
    seed = hash_bytes(b"city", 0)
    low = 2**22 - 1
    expected = [hash_bytes(b"Wien", seed) & low, hash_bytes(b"city", 1) & low, hash_bytes(b"", seed) & low]
    assert slots[:, 0].tolist() == expected
    assert slots[:, 1].tolist() == [hash_bytes(b"", 3) & low] * 3
    assert (slots.dtype.name, values.dtype.name) == ("uint32", "float32")
    assert slots.flags.c_contiguous
    assert values.flags.c_contiguous
    assert (values == 1).all()


def test_equal_values_of_two_columns_differ() -> None:
    slots, _ = Encoder([InputSpec("a"), InputSpec("b")], bits=30).encode(pa.table({"a": [1], "b": [1]}))
    assert slots[0, 0] != slots[0, 1]


def test_numeric_inputs_are_log_scaled_and_missing_has_its_own_slot() -> None:
    table = pa.table({"x": [0.0, 9.0, -9.0, None, math.nan, math.inf, -math.inf]})
    slots, values = Encoder([InputSpec("x", "numeric")], bits=30).encode(table)
    assert len(set(slots[:3, 0].tolist())) == 1
    assert len(set(slots[3:, 0].tolist())) == 1
    assert slots[0, 0] != slots[3, 0]
    log10 = np.float32(math.log(10.0))
    assert values[:, 0].tolist() == [0.0, log10, -log10, 1.0, 1.0, 1.0, 1.0]


def test_buckets_are_closed_below_and_apart_from_values() -> None:
    column = pa.table({"x": [0.0, 1.0, 1.5, 2.0, math.inf, -math.inf, None, math.nan]})
    slots, _ = Encoder([InputSpec("x", "bucketed", (1.0, 2.0)), InputSpec("x")], bits=30).encode(column)
    below, one, one_and_half, two, inf, minus_inf, null, nan = slots[:, 0].tolist()
    assert len({below, one, two, null}) == 4
    assert (one, two, below, null) == (one_and_half, inf, minus_inf, nan)
    assert not set(slots[:, 0].tolist()) & set(slots[:, 1].tolist())


@settings(max_examples=tries(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60), max_size=4))
def test_encoding_does_not_depend_on_chunks(
    samples: Callable[[int], pa.Table], encoder: Encoder, cuts: list[int]
) -> None:
    table = samples(60)
    bounds = [0, *sorted(cuts), 60]
    pieces = [table.slice(a, b - a) for a, b in pairwise(bounds)]
    whole, chunked = encoder.encode(table), encoder.encode(pa.concat_tables(pieces))
    assert whole.slots.tobytes() == chunked.slots.tobytes()
    assert whole.values.tobytes() == chunked.values.tobytes()


def test_an_empty_table_encodes_to_nothing(samples: Callable[[int], pa.Table], encoder: Encoder) -> None:
    slots, values = encoder.encode(samples(0))
    assert slots.shape == values.shape == (0, encoder.width) == (0, 5)


def test_fingerprint_is_pinned_and_covers_everything() -> None:
    inputs = [InputSpec("a"), InputSpec("b", "bucketed", (1.0, 2.0))]
    pinned = Encoder(inputs, 20).fingerprint
    assert pinned == "7e7091e9df61991dd41c0262c2bfeb1d683dc88844a46474423155450c7a91bc"
    others = [
        Encoder(inputs, 21),
        Encoder(inputs[::-1], 20),
        Encoder([InputSpec("a"), InputSpec("b", "bucketed", (1.0, 3.0))], 20),
        Encoder([InputSpec("a", "numeric"), inputs[1]], 20),
        Encoder([InputSpec("c"), inputs[1]], 20),
    ]
    assert len({pinned, *(other.fingerprint for other in others)}) == 6
    assert Encoder([InputSpec("a"), InputSpec("b", "bucketed", (1, 2))], 20).fingerprint == pinned


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a': kind 'ordinal' is unknown; use one of categorical, numeric"):
        InputSpec("a", "ordinal")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'a' is numeric but has boundaries"):
        InputSpec("a", "numeric", (1.0,))
    for boundaries in (None, (), (2.0, 1.0), (1.0, 1.0), (math.nan,), (math.inf,)):
        with pytest.raises(ConfigError, match="are none; write one or more finite, strictly ascending numbers"):
            InputSpec("a", "bucketed", boundaries)
    with pytest.raises(ConfigError, match="'a' is declared categorical twice"):
        Encoder([InputSpec("a"), InputSpec("a")], 20)
    with pytest.raises(ConfigError, match="at least one input"):
        Encoder([], 20)
    for bits in (0, 31):
        with pytest.raises(ConfigError, match=f"bits = {bits} is out of bounds; write 1…30"):
            Encoder([InputSpec("a")], bits)


def test_an_absent_column_is_named() -> None:
    with pytest.raises(WireError, match=r"lacks the model input columns \['a'\]; it has \['b'\]"):
        Encoder([InputSpec("a")], 20).encode(pa.table({"b": [1]}))
