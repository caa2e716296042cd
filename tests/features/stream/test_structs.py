"""Structs as bytes: what goes in comes out, to the bit."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features.plan.advice import advice_on
from dovetail.features.stored.consistency import equal_bits
from dovetail.features.stream.collections.structs import pack_structs, unpack_structs
from tests.features.parity.strategies import Schema, view_of

TYPE = pa.struct(
    [("a", pa.string()), ("b", pa.decimal128(9, 2)), ("c", pa.float64()), ("d d", pa.bool_()), ("e", pa.string())]
)
member = {
    "a": st.none() | st.text(max_size=4),
    "b": st.none() | st.integers(-300, 300).map(lambda cents: Decimal(cents).scaleb(-2)),
    "c": st.none() | st.floats(allow_nan=False).map(lambda x: x + 0.0),
    "d d": st.none() | st.booleans(),
    "e": st.none() | st.sampled_from(("", "a\0b", "long " * 9)),
}
EVENTS = Schema({"item": "VARCHAR", "price": "DECIMAL(9,2)", "score": "DOUBLE", "kind": "VARCHAR"})


@given(rows=st.lists(st.none() | st.fixed_dictionaries(member), max_size=12), start=st.integers(0, 3))
def test_structs_come_back(rows: list[dict[str, object] | None], start: int) -> None:
    array = pa.array(rows, TYPE).slice(start)
    packed = pack_structs(array)
    assert packed.is_valid().to_pylist() == array.is_valid().to_pylist()
    back = unpack_structs(packed, TYPE)
    assert back.type == TYPE
    assert equal_bits(pa.chunked_array([back]), pa.chunked_array([array])).all()
    order = pa.array(np.arange(len(array))[::-1].copy())
    again = unpack_structs(packed.take(order), TYPE)
    assert equal_bits(pa.chunked_array([again]), pa.chunked_array([array.take(order)])).all()


def test_what_a_null_struct_hides_is_not_kept() -> None:
    members = [pa.array(["hidden", "seen"]), pa.array([1, 2])]
    array = pa.StructArray.from_arrays(members, names=["a", "b"], mask=pa.array([True, False]))
    packed = pack_structs(array)
    assert pc.binary_length(packed).to_pylist() == [None, 3 * 8 + 4]
    assert unpack_structs(packed, array.type).to_pylist() == [None, {"a": "seen", "b": 2}]


def advice(*outputs: str) -> list[str]:
    listed = ", ".join(f"{output} AS f{number}" for number, output in enumerate(outputs))
    window = "PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    return advice_on(view_of(f"SELECT user_id, {listed} FROM events WINDOW w AS ({window})", EVENTS))


def test_lists_side_by_side_are_advised_against() -> None:
    (said,) = advice(
        "arg_max(item, event_time, 5) OVER w", "arg_max(price * 2, event_time, 5) OVER w", "count(*) OVER w"
    )
    assert said.startswith("sql/view.sql:1: view: 2 lists of the same events (item, price * 2) each leave out")
    assert said.endswith("write one list of structs, arg_max({'item': item, 'm2': price * 2}, event_time, 5) OVER w")
    (said,) = advice("newest(list(item) OVER w, 3)", "len(newest(list(price) OVER w, 3))")
    assert "leave out" not in said
    assert said.endswith("newest(list({'item': item, 'price': price}) OVER w, 3)")


def test_lists_of_other_events_are_not() -> None:
    assert advice("arg_max(item, event_time, 5) OVER w", "arg_max(price, event_time, 6) OVER w") == []
    assert advice("arg_max(item, event_time, 5) OVER w", "arg_min(price, event_time, 5) OVER w") == []
    assert advice("arg_max(item, event_time, 5) OVER w", "arg_max(price, price, 5) OVER w") == []
    assert advice("arg_max(item, event_time) OVER w", "arg_max(price, event_time) OVER w") == []
    assert advice("arg_max({'i': item, 'p': price}, event_time, 5) OVER w", "last(item) OVER w") == []
