"""Messages as nobody should send them: good ones changed at random, by seed.

Each function takes a :class:`random.Random` and gives one message; the same state gives the same message.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa

__all__ = ["MUTATORS", "arrow_message", "header", "json_message", "sent_ms", "stamped_message"]

_TOKENS = [
    *(b"null", b"true", b"[]", b"{}", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b"\r\n", b"\0", b" ", b"\\"),
    *(
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"9e308",
        b"-0",
        b"-0.0",
        b"0" * 400,
        b"9" * 400,
        b"9223372036854775808",
        b"1e-9",
    ),
    *(b"\\u0000", b"\\ud800", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[" * 3_000, b'{"a":' * 900),
    *(
        b'"0000-01-01"',
        b'"9999-12-31T23:59:59.999999-14:00"',
        b'"2024-02-30"',
        b'"1.5e2"',
        b'"+.5"',
        b"/**/",
        b"'",
        b"e-99999999",
    ),
]
_LITERALS = [
    *("null", "true", "1", "-1", "1.5", "1e3", "2147483648", "9223372036854775807", "1e400", "NaN", '""', '"a"', "[]"),
    *("{}", "[null]", '[{"item_id":null}]', '[{"item_id":1,"position":2}]', '"2024-01-01"', '"0001-01-01T00:00:00Z"'),
    *(
        '"9999-12-31T23:59:59.999999Z"',
        '"12.34"',
        '"12.345"',
        "12.340000000",
        '"\\u0000"',
        "[[1],null,[2.5]]",
        "[1,null]",
        *("1e-100000000", '"0e-100000000"', '"1\\u0065-2000000000"', '{"p":"1e-200000000"}', "3.6169277770751304e-143"),
    ),
]
_FIELDS = [
    *("user_id", "event_time", "request_id", "request_time", "item_id", "price", "n", "small", "f", "d", "ok", "day"),
    *("lists", "candidates", "st", "unknown", "", "\0"),
]
_INTERESTING = [0, 1, -1, 7, 127, 255, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63)]
_SMALL_TYPES: list[pa.DataType] = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32()),
    *(pa.float64(), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.binary(3)),
    *(pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.time64("us")),
    *(
        pa.duration("ms"),
        pa.month_day_nano_interval(),
        pa.decimal128(12, 2),
        pa.decimal128(38, 20),
        pa.decimal256(70, 30),
    ),
    *(pa.decimal128(5, -2), pa.decimal32(7, 2), pa.decimal64(15, 15), pa.uuid()),
]


def json_message(draw: random.Random) -> bytes:
    """JSON of a row, of which fields are exchanged and bytes changed."""
    if draw.random() < 0.02:
        return draw.choice(
            [b"", b" \n", b"null", b"[]", b"7", b'"x"', b"true", b"[null]", b"\xff\xff\xff\xff", b"{}{}"]
        )
    fields = {
        "user_id": '"u"', "event_time": '"2024-01-01T00:00:00Z"', "request_id": '"r"', "item_id": "1",
        "request_time": '"2024-01-01T00:00:00Z"', "candidates": '[{"item_id":1,"position":0},{"item_id":2}]',
    }  # fmt: skip
    for _ in range(draw.randrange(4)):
        fields[draw.choice(_FIELDS)] = draw.choice(_LITERALS)
    between = draw.choice([",", ",", ",\n", " , "])
    value = ("{" + between.join(f"{json.dumps(name)}:{literal}" for name, literal in fields.items()) + "}").encode()
    for _ in range(draw.choice([0, 0, 1, 1, 2, 5])):
        value = _changed_text(draw, value)
    return value


def _changed_text(draw: random.Random, value: bytes) -> bytes:
    at = draw.randrange(len(value) + 1)
    to = min(len(value), at + draw.choice([0, 0, 1, 1, 4, 30]))
    kind = draw.randrange(5)
    if kind == 0:
        return value[:at] + draw.choice(_TOKENS) + value[to:]
    if kind == 1:
        return value[:at] + bytes([draw.randrange(256)]) + value[to:]
    if kind == 2:
        return value[:at] + value[to:]
    if kind == 3:
        return value[:at] + value[draw.randrange(len(value) + 1) :]
    return value[:at]


def arrow_message(draw: random.Random) -> bytes:
    """An Arrow stream of columns of any types, compressed in any way, of which bytes are changed."""
    value = _stream(draw, _table(draw))
    if draw.random() < 0.05:
        value += draw.choice([value, b"\xff\xff\xff\xff", value[len(value) // 2 :], b"\0" * 64])
    for _ in range(draw.choice([0, 1, 1, 1, 2, 4])):
        value = _changed_bytes(draw, value)
    return value


def _table(draw: random.Random) -> pa.Table:
    rows = draw.choice([0, 1, 1, 2, 3, 50])
    columns = {
        "user_id": pa.array(["u"] * rows),
        "event_time": pa.array([1_700_000_000_000_000] * rows, pa.timestamp("us")),
        "request_id": pa.array(["r"] * rows),
        "item_id": pa.array(range(rows), pa.int64()),
        "request_time": pa.array([1_700_000_000_000_000] * rows, pa.timestamp("us")),
        "candidates": pa.array([[{"item_id": 1, "position": 0}]] * rows),
    }
    if draw.random() < 0.5:
        columns["user_id"] = columns["user_id"].dictionary_encode()
    if draw.random() < 0.02:  # decompresses to far more than it takes
        columns["unknown"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(1 << 20), rows, [None, pa.py_buffer(bytes(rows << 20))]
        )
    for _ in range(draw.randrange(3)):
        columns[draw.choice(_FIELDS[:15])] = _column(draw, rows)
    names = list(columns)
    if draw.random() < 0.05:
        names[draw.randrange(len(names))] = draw.choice(names)
    return pa.Table.from_arrays(list(columns.values()), names=names)


def _column(draw: random.Random, rows: int, depth: int = 0) -> pa.Array:
    type_ = draw.choice(_SMALL_TYPES)
    width = 0 if type_ in (pa.null(), pa.uuid()) or not _fixed(type_) else type_.bit_width
    if width:
        data = draw.randbytes((rows * width + 7) // 8) if draw.random() < 0.5 else bytes((rows * width + 7) // 8)
        found = pa.Array.from_buffers(type_, rows, [None, pa.py_buffer(data)])
    elif type_ == pa.null():
        found = pa.nulls(rows)
    elif type_ == pa.uuid():
        found = pa.array([bytes(16)] * rows, pa.uuid())
    else:
        text = draw.choice(["", "a", "2024-01-01T00:00:00Z", "1.50", "\0", "x" * 100, "1e-100000000"])
        found = pa.array([text] * rows, pa.string()).cast(type_)
    nesting = draw.randrange(12) if depth < 2 else 12
    offsets = pa.array(range(rows + 1), pa.int32())
    if nesting == 0:
        return pa.ListArray.from_arrays(offsets, _column(draw, rows, depth + 1))
    if nesting == 1:
        return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), _column(draw, rows, depth + 1))
    if nesting == 2:
        return pa.FixedSizeListArray.from_arrays(_column(draw, rows, depth + 1), 1)
    if nesting == 3:
        sizes = pa.array([1] * rows, pa.int32())
        return pa.ListViewArray.from_arrays(offsets.slice(0, rows), sizes, _column(draw, rows, depth + 1))
    if nesting == 4:
        members = draw.choice([["item_id"], ["item_id", "position"], ["item_id", "item_id"], ["a"]])
        return pa.StructArray.from_arrays([_column(draw, rows, depth + 1) for _ in members], names=members)
    if nesting == 5 and not pa.types.is_null(type_) and type_ != pa.uuid():
        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), found)
    if nesting == 6 and rows:
        return pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([7]))
    return found


def _fixed(type_: pa.DataType) -> bool:
    try:
        return bool(type_.bit_width)
    except ValueError:
        return False


def _stream(draw: random.Random, table: pa.Table) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression=draw.choice([None, "lz4", "zstd"]), use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=draw.choice([1, 1_000]))
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _changed_bytes(draw: random.Random, value: bytes) -> bytes:
    if len(value) < 16:
        return value
    kind = draw.randrange(6)
    at = draw.randrange(4, len(value) - 8)
    if kind == 0:
        return value[: at + draw.randrange(8)]
    if kind == 1:
        return value[:at] + bytes([value[at] ^ (1 << draw.randrange(8))]) + value[at + 1 :]
    if kind == 2:
        return value[:at] + bytes([draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])]) + value[at + 1 :]
    if kind == 3:
        there = at - at % 8
        return value[:there] + struct.pack("<q", draw.choice(_INTERESTING)) + value[there + 8 :]
    if kind == 4:
        there = at - at % 4
        return value[:there] + struct.pack("<q", draw.choice(_INTERESTING))[:4] + value[there + 4 :]
    other = draw.randrange(4, len(value) - 8)
    return value[:at] + value[other : other + 8] + value[at + 8 :]


def header(draw: random.Random) -> tuple[str, Any]:
    """A header of any of the names that mean something, with a value that may mean nothing."""
    name = draw.choice(["dovetail-watermark", "dovetail-watermark", "dovetail-idle", "dovetail-reply-to", "other"])
    if draw.random() < 0.2:
        name = draw.choice(
            ["dovetail-reason", "dovetail-source", "dovetail-rows", "dovetail-sent", "", "\0", "\U0001f600"]
        )
    if draw.random() < 0.5:
        digits = draw.choice(["", "0", "-", "+", "00000"]) + str(abs(draw.choice(_INTERESTING)) + draw.randrange(3))
        return name, digits.encode()
    return name, draw.choice(
        [None, b"", b"soon", b"9" * 30, b"1_0", b" 1", b"\xff", b"\0", "\u0661".encode(), b"replies"]
    )


def sent_ms(draw: random.Random) -> int:
    """A message's timestamp."""
    near = [-62_135_596_800_000, 253_402_300_799_999, 1_704_067_200_000, *_INTERESTING, 1 << 62, -(1 << 62)]
    return max(-(1 << 63), min((1 << 63) - 1, draw.choice(near) + draw.choice([0, 0, -1, 1])))


def stamped_message(draw: random.Random) -> bytes:
    """A row whose times are at the edges of what there is, as JSON or Arrow."""
    edges = [-62_135_596_800_000_000, 253_402_300_799_999_999, *_INTERESTING]
    if draw.random() < 0.5:
        text = f"{draw.choice(['0000', '0001', '1969', '9999', '10000', '-001'])}-12-31T23:59:59.999999"
        time = json.dumps(text + draw.choice(["", "Z", "-23:59", "+23:59", "+24:00"]))
        row = f'"user_id":"u","request_id":"r","item_id":1,"event_time":{time},"request_time":{time}'
        return f'{{{row},"candidates":[{{"item_id":1}}]}}'.encode()
    unit = draw.choice(["s", "ms", "us", "ns"])
    times = pa.array([draw.choice(edges)], pa.int64()).cast(pa.timestamp(unit))
    nested = pa.array([[{"item_id": 1}]])
    columns = {
        "user_id": pa.array(["u"]),
        "request_id": pa.array(["r"]),
        "item_id": pa.array([1]),
        "candidates": nested,
    }
    return _stream(draw, pa.table({**columns, "event_time": times, "request_time": times}))


#: What makes the value of a message, by kind.
MUTATORS: dict[str, Callable[[random.Random], bytes]] = {
    "json": json_message,
    "arrow": arrow_message,
    "headers": lambda draw: draw.choice([b"", b"", json_message(draw)]),
    "timestamps": stamped_message,
}
