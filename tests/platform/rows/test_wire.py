"""Bytes to rows: what fits passes, what does not is a dead letter with its reason, nothing is lost."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.stage import Poll
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
    b'{"user_id":"a","event_time":"2024-01-01","price":10000000000}': "1000000000000 does not fit in precision of",
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


SENT = st.tuples(
    st.none() | st.binary(max_size=6),
    st.sampled_from([b"{", b"", None, b"\xff\xff\xff\xff"]) | st.binary(max_size=6),
    st.lists(st.tuples(st.text(max_size=4) | st.sampled_from(["dovetail-source"]), st.none() | st.binary(max_size=4))),
)


@given(st.lists(SENT, min_size=1, max_size=5))
def test_a_dead_letter_has_key_headers_and_bytes_as_they_came(
    messages: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]],
) -> None:
    keys, values = [key for key, _, _ in messages], [value for _, value, _ in messages]
    headers, n = [tuple(came) for _, _, came in messages], len(messages)
    stamps = np.full(n, 1_704_067_200_000, dtype=np.int64)
    poll = Poll("t", 0, np.arange(n, dtype=np.int64), stamps, keys, values, headers)
    dead = wire.decode(poll, schema()).dead
    assert [letter.offset for letter in dead] == list(range(n))
    for out, (key, value, came) in zip(wire.letters_to_outgoing("dead", poll, dead, "features"), messages, strict=True):
        assert (out.key, out.value) == (key, value or b"")
        assert list(out.headers[: len(came)]) == came
        assert wire.letter_of(out.headers).topic == "t"  # our own come behind them, and are those that count


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


@pytest.mark.parametrize(
    "value", [b"null", b"[]", b"7", b'"x"', b"true", b"[null]", b"\xef\xbb\xbf" + GOOD, b"\x0b" + GOOD]
)
def test_what_is_no_object_does_not_reach_the_parser(value: bytes) -> None:
    decoded = wire.decode(poll_of([GOOD, value, GOOD]), schema())
    assert [letter.offset for letter in decoded.dead] == [1]
    assert decoded.table.num_rows == 2


def test_messages_that_are_as_many_objects_as_messages_together_are_not_taken_for_each_other() -> None:
    halves = [GOOD + GOOD.replace(b'"a"', b'"b"'), b'{"user_id":', b'"c","event_time":"2024-01-01"}']
    decoded = wire.decode(poll_of([GOOD, *halves, GOOD]), schema())
    assert [letter.offset for letter in decoded.dead] == [1, 2, 3]
    assert decoded.table.column("_offset").to_pylist() == [0, 4]


@pytest.mark.parametrize("inside", [b"\0", b"\n", b"\r", b"\t"])
def test_a_control_character_in_a_text_is_refused(inside: bytes) -> None:
    bad = GOOD.replace(b'"a"', b'"a%s"' % inside)
    decoded = wire.decode(poll_of([GOOD, bad, GOOD + inside + b"}", GOOD]), schema())
    assert [letter.offset for letter in decoded.dead] == [1, 2]


def test_a_structure_too_deep_for_a_stack_is_ignored_where_it_is_not_declared() -> None:
    deep = GOOD[:-1] + b',"z":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}"
    assert wire.decode(poll_of([GOOD, deep]), schema()).table.num_rows == 2


def _arrow(columns: dict[str, Any], compression: str | None = None) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


TIMES = pa.array([0], pa.timestamp("us"))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_small_message_may_not_become_a_large_one(compression: str | None) -> None:
    columns = {"user_id": pa.array(["a"]), "event_time": TIMES, "z": pa.array([b"\0" * (130 << 20)])}
    message = _arrow(columns, compression)
    before = pa.total_allocated_bytes()
    (letter,) = wire.decode(poll_of([message]), schema()).dead
    assert "bytes once decoded; 134217728 are allowed" in letter.reason
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_views_and_dictionaries_may_not_multiply_a_text() -> None:
    long, n = "x" * 4_000_000, 100
    times = pa.array([0] * n, pa.timestamp("us"))
    once = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), pa.array([long]))
    (letter,) = wire.decode(poll_of([_arrow({"user_id": once, "event_time": times})]), schema()).dead
    assert "its text takes 400000000 bytes once decoded" in letter.reason
    view = pa.array([long], pa.string_view()).buffers()
    views = pa.Array.from_buffers(pa.string_view(), n, [None, pa.py_buffer(view[1].to_pybytes()[:16] * n), view[2]])
    (letter,) = wire.decode(poll_of([_arrow({"user_id": views, "event_time": times})]), schema()).dead
    assert "its text takes 400000000 bytes once decoded" in letter.reason


def test_values_that_take_no_bytes_are_counted() -> None:
    nothing = pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 26), 1 << 26)
    (letter,) = wire.decode(
        poll_of([_arrow({"user_id": pa.array(["a"]), "event_time": TIMES, "z": nothing})]), schema()
    ).dead
    assert "more than 33554432 values" in letter.reason


def test_json_may_not_multiply_either() -> None:
    members = ", ".join(f"m{n} BIGINT" for n in range(500))
    wide = parse_table(parse_statements(Path("w.sql"), f"CREATE TABLE w (a STRUCT({members})[])")[0], Path("w.sql"))
    bomb = b'{"a":[' + b",".join([b"{}"] * 20_000) + b"]}"
    decoded = wire.decode(poll_of([b'{"a":[{"m7":1}]}', bomb]), wide)
    assert decoded.table.num_rows == 1
    assert "134217728 are allowed" in decoded.dead[0].reason


def test_a_declared_column_twice_is_refused_and_another_twice_is_not_read() -> None:
    def of(*names: str) -> bytes:
        arrays = [pa.array([name]) for name in names] + [TIMES]
        return wire.encode(pa.Table.from_arrays(arrays, names=[*names, "event_time"]))

    decoded = wire.decode(poll_of([of("user_id", "user_id"), of("z", "z", "user_id")]), schema())
    assert [letter.reason for letter in decoded.dead] == ["column user_id stands in it twice"]
    assert decoded.table.column("user_id").to_pylist() == ["user_id"]


def test_columns_that_are_not_declared_may_be_of_any_type() -> None:
    odd = {"z": pa.array([[1]], pa.list_view(pa.int8())), "y": pa.array([bytes(16)], pa.uuid())}
    decoded = wire.decode(poll_of([_arrow({**odd, "user_id": pa.array(["a"]), "event_time": TIMES})]), schema())
    assert decoded.table.column("user_id").to_pylist() == ["a"]


def test_a_name_that_is_not_utf_8_is_a_dead_letter() -> None:
    bad = _arrow({"user_id": pa.array(["a"]), "event_time": TIMES}).replace(b"user_id", b"user_i\xff")
    decoded = wire.decode(poll_of([GOOD, bad]), schema())
    assert [letter.offset for letter in decoded.dead] == [1]


def test_arrow_messages_of_one_schema_are_refused_one_by_one() -> None:
    def priced(price: float) -> bytes:
        return _arrow({"user_id": pa.array(["a"]), "event_time": TIMES, "price": pa.array([price])})

    decoded = wire.decode(poll_of([priced(1.25), priced(1.255), GOOD, priced(2.5), priced(1e300)]), schema())
    assert [letter.offset for letter in decoded.dead] == [1, 4]
    assert decoded.table.column("_offset").to_pylist() == [0, 2, 3]
    assert [float(price) for price in decoded.table.column("price").to_pylist()] == [1.25, 1.25, 2.5]


def test_a_poll_is_decoded_once_for_all_that_read_it_alike() -> None:
    poll, declared = poll_of([GOOD, GOOD]), schema()
    assert wire.decode(poll, declared) is wire.decode(poll, declared)
    other = parse_table(parse_statements(Path("event.sql"), DDL.replace("BIGINT,", "INTEGER,"))[0], Path("event.sql"))
    assert wire.decode(poll, other).table.schema.field("n").type == pa.int32()
    assert wire.decode(poll.since(poll.last), declared).table.num_rows == 1


def test_another_process_decodes_for_itself() -> None:
    poll, declared = poll_of([GOOD]), schema()
    wire.decode(poll, declared)
    sent = pickle.loads(pickle.dumps(poll))
    assert sent.shared == {}
    assert (sent.values, sent.offsets.tolist()) == (poll.values, poll.offsets.tolist())
