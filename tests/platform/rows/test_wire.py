"""Bytes to rows: what fits passes, what does not is a dead letter with its reason, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from tests.platform.polls import poll_of

DDL = """
CREATE TABLE event (
    user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL, price DECIMAL(12,2), n BIGINT,
    items STRUCT(item_id BIGINT, x DOUBLE)[]
)
"""


def schema() -> TableSchema:
    (statement,) = parse_statements(Path("event.sql"), DDL)
    return parse_table(statement, Path("event.sql"))


GOOD = b'{"user_id":"a","event_time":"2024-01-01T00:00:00Z","price":"1.25"}'
BAD = {
    b"": "empty message",
    b"   ": "empty message",
    b'{"user_id":"a"': "not valid JSON",
    b'{"user_id":"a"}': "column event_time is missing or NULL; it is NOT NULL in event.sql",
    b'{"user_id":"a","event_time":null}': "column event_time is missing or NULL",
    b'{"user_id":"a","event_time":"yesterday"}': "couldn't parse:yesterday",
    b'{"user_id":"a","event_time":1704067200}': "changed from string to number",
    b'{"user_id":1,"event_time":"2024-01-01"}': "changed from string to number",
    b'{"user_id":"a","event_time":"2024-01-01","price":1.255}': "requires scale 3",
    b'{"user_id":"a","event_time":"2024-01-01","n":1.5}': "couldn't parse:1.5",
    b'{"user_id":"a","event_time":"2024-01-01","n":9223372036854775808}': "couldn't parse",
    b'{"user_id":"a\xff","event_time":"2024-01-01"}': "not valid JSON: 'utf-8' codec can't decode",
    GOOD + b" " + GOOD: "not valid JSON: Extra data",
    b"[1]": "a JSON list, not an object",
    b"\x00\x01\x02": "not valid JSON",
    b"\xff\xff\xff\xffgarbage": "not a complete Arrow IPC stream",
}


@pytest.mark.parametrize(("value", "reason"), BAD.items())
def test_a_bad_message_is_a_dead_letter_with_its_reason_and_the_good_ones_pass(value: bytes, reason: str) -> None:
    decoded = wire.decode(poll_of([GOOD, value, GOOD], first=10), schema())
    (letter,) = decoded.dead
    assert letter.offset == 11
    assert reason in letter.reason
    assert letter.value == value
    assert decoded.table.column("_offset").to_pylist() == [10, 12]
    assert decoded.rows_read == 3


def test_a_tombstone_is_a_dead_letter() -> None:
    (letter,) = wire.decode(poll_of([None]), schema()).dead
    assert letter.reason == "empty message"


def test_json_over_several_lines_and_unknown_fields_pass() -> None:
    pretty = json.dumps({"user_id": "a", "event_time": "2024-01-01", "more": [1]}, indent=2).encode()
    decoded = wire.decode(poll_of([GOOD, pretty]), schema())
    assert not decoded.dead
    assert decoded.table.num_rows == 2


def test_a_message_of_ten_megabytes_passes() -> None:
    big = b'{"user_id":"' + b"x" * 10_000_000 + b'","event_time":"2024-01-01"}'
    decoded = wire.decode(poll_of([GOOD, big, GOOD]), schema())
    assert not decoded.dead
    assert [len(user) for user in decoded.table.column("user_id").to_pylist()] == [1, 10_000_000, 1]


def test_json_and_arrow_messages_mix_and_rows_keep_the_order_of_the_log() -> None:
    rows = wire.decode(poll_of([GOOD, GOOD.replace(b'"a"', b'"b"')]), schema()).table
    decoded = wire.decode(poll_of([GOOD, wire.encode(rows), GOOD.replace(b'"a"', b'"c"')], first=5), schema())
    assert decoded.table.column("user_id").to_pylist() == ["a", "a", "b", "c"]
    assert decoded.table.column("_offset").to_pylist() == [5, 6, 6, 7]
    assert decoded.table.column("_row").to_pylist() == [0, 0, 1, 0]
    assert decoded.message_index.tolist() == [0, 1, 1, 2]


def test_an_arrow_message_of_another_shape_is_one_dead_letter_counting_all_its_rows() -> None:
    wrong = pa.table({"user_id": ["a", "b"], "event_time": ["noon", "night"]})
    missing = pa.table({"user_id": ["a", "b", "c"]})
    none = pa.table({"user_id": pa.array([], pa.string())})
    decoded = wire.decode(poll_of([wire.encode(t) for t in (wrong, missing, none)]), schema())
    assert [letter.rows for letter in decoded.dead] == [2, 3, 1]
    assert "column event_time is string, declared timestamp[us] in event.sql" in decoded.dead[0].reason
    assert "column event_time is missing or NULL" in decoded.dead[1].reason
    assert "0 rows in one message" in decoded.dead[2].reason


def test_an_arrow_message_with_narrower_types_is_widened() -> None:
    table = pa.table(
        {
            "user_id": ["a"],
            "event_time": pa.array([1_700_000_000], pa.timestamp("s")),
            "n": pa.array([3], pa.int32()),
        }
    )
    decoded = wire.decode(poll_of([wire.encode(table)]), schema())
    assert decoded.table.schema.field("n").type == pa.int64()
    assert decoded.table.column("event_time").cast(pa.int64()).to_pylist() == [1_700_000_000_000_000]


def test_dead_letters_carry_value_reason_and_source() -> None:
    poll = poll_of([b"{"], topic="behaviour", partition=2, first=7)
    (out,) = wire.letters_to_outgoing("dead", poll, wire.decode(poll, schema()).dead, "features")
    assert (out.topic, out.value) == ("dead", b"{")
    headers = dict(out.headers)
    assert headers["dovetail-source"] == b"behaviour[2]@7"
    assert headers["dovetail-stage"] == b"features"
    assert headers["dovetail-reason"].startswith(b"not valid JSON")
    head = wire.letter_of(out.headers)
    assert head[:6] == ("features", "behaviour", 2, 7, 1, 0)
    assert head.reason.startswith("not valid JSON")


@pytest.mark.parametrize("headers", [(), (("dovetail-source", b"behaviour"),), (("dovetail-source", b"b[0]@1"),)])
def test_what_is_no_dead_letter_is_not_taken_for_one(headers: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(WireError, match="only Dovetail may write to this topic"):
        wire.letter_of(headers)


def test_an_internal_topic_accepts_arrow_only() -> None:
    table = pa.table({"x": [1, 2]})
    decoded = wire.decode_arrow(poll_of([wire.encode(table), wire.encode(table)], first=3))
    assert decoded.column("_offset").to_pylist() == [3, 3, 4, 4]
    with pytest.raises(WireError, match=r"topic\[0\]@3: not an Arrow IPC stream"):
        wire.decode_arrow(poll_of([b"{}"], first=3))


def test_json_encoding_is_read_back_equal() -> None:
    table = wire.decode(poll_of([GOOD]), schema()).table.drop_columns(["_partition", "_offset", "_row"])
    again = wire.decode(poll_of(wire.encode_json(table)), schema()).table
    assert again.drop_columns(["_partition", "_offset", "_row"]).equals(table)


@given(st.lists(st.sampled_from([GOOD, *BAD]), max_size=40))
def test_every_message_is_a_row_or_a_dead_letter(values: list[bytes]) -> None:
    decoded = wire.decode(poll_of(values), schema())
    good = [index for index, value in enumerate(values) if value == GOOD]
    assert decoded.table.column("_offset").to_pylist() == good
    assert [letter.offset for letter in decoded.dead] == [i for i, value in enumerate(values) if value != GOOD]
    assert np.array_equal(decoded.message_index, good)
