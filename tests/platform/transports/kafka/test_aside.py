"""Polls that are set aside: each message is handed out once, in order, in polls of bounded size; no more is kept."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.aside import Aside

Message = tuple[bytes | None, bytes | None]
octets = st.none() | st.binary(max_size=4)
steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from("abc"), st.lists(st.tuples(octets, octets), min_size=1, max_size=6)),
    max_size=30,
)


def poll(partition: str, offsets: list[int], messages: list[Message]) -> Poll:
    keys, values = zip(*messages, strict=True)
    at = np.array(offsets, dtype=np.int64)
    return Poll(partition, 0, at, at * 1000, list(keys), list(values), [(("h", b"%d" % n),) for n in offsets])


def messages_of(poll: Poll) -> list[tuple[int, int, Message, object]]:
    at = zip(poll.offsets.tolist(), poll.timestamps_ms.tolist(), strict=True)
    rest = zip(zip(poll.keys, poll.values, strict=True), poll.headers, strict=True)
    return [(*times, *message) for times, message in zip(at, rest, strict=True)]


@given(steps, st.integers(1, 20), st.integers(1, 5))
def test_each_message_is_taken_once_in_order_and_room_is_by_bytes(
    does: list[tuple[bool, str, list[Message]]], most_bytes: int, most_messages: int
) -> None:
    aside: Aside[str] = Aside(most_bytes, most_messages)
    kept: defaultdict[str, list[tuple[int, int, Message, object]]] = defaultdict(list)
    offsets: defaultdict[str, count[int]] = defaultdict(lambda: count(0, 2))  # with holes
    for puts, partition, messages in does:
        if puts:
            one = poll(partition, [next(offsets[partition]) for _ in messages], messages)
            aside.put({partition: one})
            kept[partition] += messages_of(one)
        else:
            expected = kept[partition][:most_messages]
            taken = {name: messages_of(found) for name, found in aside.take({partition}).items()}
            assert taken == ({partition: expected} if expected else {})
            del kept[partition][:most_messages]
        held = {name: sum(len(k or b"") + len(v or b"") for _, _, (k, v), _ in rows) for name, rows in kept.items()}
        assert aside.with_room("abc") == {name for name in "abc" if held.get(name, 0) < most_bytes}
    aside.clear()
    assert aside.take("abc") == {}
    assert aside.with_room("abc") == set("abc")
