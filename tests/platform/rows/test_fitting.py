"""Messages above the broker's limit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.fitting import fitting, units_above, wire_size
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.stage import Outgoing
from tests.platform.polls import poll_of


def derived(requests: list[int], width: int = 40) -> pa.Table:
    """Rows of requests with so many candidates each, as a stage publishes them; noise, so that nothing compresses."""
    noise = np.random.default_rng(1)
    rows = sum(requests)
    return pa.table(
        {
            "payload": pa.array([noise.bytes(width) for _ in range(rows)], pa.binary()),
            "_source_partition": pa.array([0] * rows, pa.int32()),
            "_source_offset": pa.array(np.repeat(np.arange(len(requests)), requests), pa.int64()),
            "_source_row": pa.array([0] * rows, pa.int32()),
        }
    )


def read(messages: list[Outgoing]) -> pa.Table:
    return wire.decode_arrow(poll_of([message.value for message in messages]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(3_000, 20_000))
def test_what_is_split_reads_back_as_it_was_and_requests_stay_whole(requests: list[int], limit: int) -> None:
    table = derived(requests)
    parts = list(fitting([Outgoing("t", wire.encode(table), partition=3)], limit))
    assert all(wire_size(part) <= limit and part.partition == 3 for part in parts)
    rows = read(parts)
    assert rows.select(table.column_names) == table
    admitted = SourceFilter().admit(rows)
    assert admitted.all()


@given(st.lists(st.integers(1, 10), min_size=2, max_size=20), st.integers(4_500, 9_000), st.integers(4_500, 9_000))
def test_a_crash_between_parts_and_another_limit_repeat_rows_that_are_dropped(
    requests: list[int], first: int, second: int
) -> None:
    table = derived(requests, width=200)
    message = Outgoing("t", wire.encode(table))
    before = list(fitting([message], first))
    for published in range(len(before) + 1):
        rows = read(before[:published] + list(fitting([message], second)))
        kept = rows.filter(pa.array(SourceFilter().admit(rows)))
        assert kept.select(table.column_names).combine_chunks() == table.combine_chunks()


def test_nothing_is_touched_that_fits() -> None:
    outgoing = [Outgoing("t", b"x" * 500)]
    assert fitting(outgoing, 1_000) is outgoing
    mixed = [Outgoing("t", b"small"), Outgoing("t", wire.encode(derived([50, 50])), key=b"k")]
    small, *parts = fitting(mixed, 4_000)
    assert small is mixed[0]
    assert len(parts) > 1
    assert {part.key for part in parts} == {b"k"}


def test_rows_without_source_are_cut_anywhere() -> None:
    table = derived([10], width=1_000).select(["payload"])
    parts = list(fitting([Outgoing("t", wire.encode(table))], 2_000))
    assert len(parts) == 10
    assert read(parts).select(["payload"]) == table


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (
            wire.encode(derived([100])),
            "100 rows of one source position, partition 0, offset 0, row 0 of .*",
        ),
        (wire.encode(derived([1], width=5_000).select(["payload"])), "1 rows of one source position"),
        (b"{" + b" " * 5_000, "not Arrow"),
    ],
)
def test_what_cannot_be_split_is_named(value: bytes, what: str) -> None:
    with pytest.raises(WireError, match=rf"a message for 't' is \d+ bytes \({what}\) and cannot be split; the limit"):
        fitting([Outgoing("t", value)], 3_000)


@pytest.mark.parametrize("value", [b"x" * 5_000, wire.encode(derived([100]))[:5_000]], ids=["text", "damaged Arrow"])
def test_a_dead_letter_goes_without_its_value(value: bytes) -> None:
    poll = poll_of([value], topic="events")
    letters = wire.letters_to_outgoing("dead", poll, [wire.DeadLetter(0, "why", 1, value)], "stage")
    (letter,) = fitting(letters, 3_000)
    assert letter.value == b""
    assert dict(letter.headers) == {
        "dovetail-reason": b"why",
        "dovetail-source": b"events[0]@0",
        "dovetail-stage": b"stage",
        "dovetail-rows": b"1",
        "dovetail-sent": b"0",
        "dovetail-left-out": b"5000",
    }


def test_a_dead_letter_is_not_looked_into_however_large_it_is() -> None:
    value = wire.encode(derived([100]))
    letters = wire.letters_to_outgoing("dead", poll_of([value]), [wire.DeadLetter(0, "why", 100, value)], "stage")
    (letter,) = fitting(letters, 3_000)
    assert letter.value == b""


def test_a_dead_letter_with_headers_above_the_limit_goes_with_our_own() -> None:
    theirs = (("trace", b"x" * 5_000), (wire.REASON_HEADER, b"theirs"))
    poll = poll_of([b"{"], topic="events", headers=[theirs])
    (letter,) = fitting(wire.letters_to_outgoing("dead", poll, [wire.DeadLetter(0, "why", 1, b"{")], "stage"), 3_000)
    assert [name for name, _ in letter.headers][0::5] == [wire.REASON_HEADER, wire.LEFT_OUT_HEADER]
    assert wire.letter_of(letter.headers).reason == "why"


def test_a_dead_letter_quotes_no_more_than_a_little() -> None:
    (letter,) = wire.letters_to_outgoing(
        "dead", poll_of([b""]), [wire.DeadLetter(0, "\u00e9" * 5_000, 1, b"")], "stage"
    )
    reason = dict(letter.headers)["dovetail-reason"].decode()
    assert reason == "\u00e9" * 1_000 + " [...]"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(3_000, 6_000))
def test_what_is_too_large_is_found_and_the_rest_fits(requests: list[int], limit: int) -> None:
    table = derived(requests, width=100)
    message = Outgoing("t", wire.encode(table))
    large = {unit.column("_source_offset")[0].as_py(): unit.num_rows for unit in units_above(message, limit)}
    assert large == {n: rows for n, rows in enumerate(requests) if n in large}
    rest = table.filter(pa.array([offset not in large for offset in table.column("_source_offset").to_pylist()]))
    for part in fitting([Outgoing("t", wire.encode(rest))], limit):
        assert wire_size(part) <= limit
