"""Records that are set aside: each is handed out once, in order, in polls of bounded size; what is kept is bounded."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.transports.kafka.aside import Aside


class Record(NamedTuple):
    key: bytes | None
    value: bytes | None
    offset: int


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, str, list[tuple[bytes | None, bytes | None]]]]:
    octets = st.none() | st.binary(max_size=4)
    one = st.tuples(
        st.sampled_from(["put", "take"]), st.sampled_from("abc"), st.lists(st.tuples(octets, octets), max_size=6)
    )
    return draw(st.lists(one, max_size=30))


@given(steps(), st.integers(1, 20), st.integers(1, 5))
def test_each_record_is_taken_once_in_order_and_room_is_by_bytes(
    does: list[tuple[str, str, list[tuple[bytes | None, bytes | None]]]], most_bytes: int, most_records: int
) -> None:
    aside: Aside[str] = Aside(most_bytes, most_records)
    kept: defaultdict[str, list[Record]] = defaultdict(list)
    for what, partition, some in does:
        if what == "put":
            records = [Record(key, value, number) for number, (key, value) in enumerate(some)]
            aside.put({partition: records})
            kept[partition] += records
        else:
            expected = kept[partition][:most_records]
            assert aside.take({partition}) == ({partition: expected} if expected else {})
            del kept[partition][:most_records]
        held = {name: sum(len(r.key or b"") + len(r.value or b"") for r in rows) for name, rows in kept.items()}
        assert aside.with_room("abc") == {name for name in "abc" if held.get(name, 0) < most_bytes}
    aside.clear()
    assert aside.take("abc") == {}
    assert aside.with_room("abc") == set("abc")
