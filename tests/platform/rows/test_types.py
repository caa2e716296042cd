"""The same value means the same however it is sent: JSON and Arrow give the same bits, or both refuse."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dovetail.platform.rows import wire
from dovetail.platform.rows.conversion import why_not_taken
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from tests.places import ROOT
from tests.platform.polls import poll_of

REFUSED = "refused"
US = pa.timestamp("us")


def table_of(declared: str) -> TableSchema:
    ddl = f"CREATE TABLE t (t TIMESTAMP NOT NULL, v {declared})"
    return parse_table(parse_statements(Path("t.sql"), ddl)[0], Path("t.sql"))


def decoded(declared: str, message: bytes) -> Any:
    """The value of ``v``, floats by their bits; REFUSED for a dead letter."""
    found = wire.decode(poll_of([message]), table_of(declared))
    assert found.table.num_rows + len(found.dead) == 1
    return REFUSED if found.dead else bits(found.table.column("v").to_pylist()[0])


def bits(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, list):
        return [bits(each) for each in value]
    return {name: bits(each) for name, each in value.items()} if isinstance(value, dict) else value


def by_json(declared: str, literal: str) -> Any:
    """What a JSON literal becomes; the same in one line and over several, alone and among others."""
    flat = b'{"t":"2024-01-01","v":%s}' % literal.encode()
    broken = b'{\n"t": "2024-01-01",\r\n"v":\n%s }\n' % literal.encode()
    first = decoded(declared, flat)
    assert decoded(declared, broken) == first
    beside = wire.decode(poll_of([flat, b"{", broken]), table_of(declared))
    assert [letter.offset for letter in beside.dead] == ([0, 1, 2] if first == REFUSED else [1])
    return first


def by_arrow(declared: str, array: pa.Array) -> Any:
    """What an Arrow value becomes; the same in a dictionary, and compressed."""
    times = pa.array([datetime(2024, 1, 1)] * len(array), US)  # noqa: DTZ001 - as Dovetail has them
    found = decoded(declared, stream(pa.table({"t": times, "v": array})))
    if not pa.types.is_nested(array.type) and not pa.types.is_null(array.type):
        assert decoded(declared, wire.encode(pa.table({"t": times, "v": array.dictionary_encode()}))) == found
    return found


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def same(declared: str, literals: Sequence[str], arrays: Sequence[pa.Array]) -> Any:
    """What all of them become, which must be one thing; also as an element of a list and as a member of a struct."""
    found = [by_json(declared, literal) for literal in literals] + [by_arrow(declared, array) for array in arrays]
    assert all(each == found[0] for each in found), dict(
        zip([*literals, *(a.type for a in arrays)], found, strict=True)
    )
    nested = f"STRUCT(a {declared}[], b BIGINT)"
    inside = [by_json(nested, f'{{"a":[{literal},null]}}') for literal in literals]
    inside += [by_arrow(nested, wrapped) for array in arrays for wrapped in _wrapped(array)]
    want = REFUSED if found[0] == REFUSED else {"a": [found[0], None], "b": None}
    assert all(each == want for each in inside)
    return found[0]


def _wrapped(array: pa.Array) -> list[pa.Array]:
    two = pa.concat_arrays([array, pa.nulls(1, array.type)])
    lists = [
        pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), two),
        pa.LargeListArray.from_arrays(pa.array([0, 2], pa.int64()), two),
        pa.FixedSizeListArray.from_arrays(two, 2),
    ]
    return [pa.StructArray.from_arrays([pa.array(["z"]), each], names=["unknown", "a"]) for each in lists]


INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}


@given(st.sampled_from(sorted(INTEGERS)), st.integers(-(2**64), 2**64) | st.integers(-300, 300))
@example("BIGINT", 2**63 - 1)
@example("BIGINT", 2**63)
@example("BIGINT", 2**53 + 1)
def test_integers(declared: str, value: int) -> None:
    arrays = [pa.array([Decimal(value)], pa.decimal128(38, 0)), pa.array([Decimal(value)], pa.decimal256(76, 0))]
    for type_ in (pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()):
        ends = np.iinfo(type_.to_pandas_dtype())
        if ends.min <= value <= ends.max:
            arrays.append(pa.array([value], type_))
    found = same(declared, [str(value)], arrays)
    half = 1 << (INTEGERS[declared] - 1)
    assert found == (value if -half <= value < half else REFUSED)


@given(st.floats() | st.floats(width=32) | st.integers(-(2**53), 2**53).map(float))
@example(-0.0)
@example(1e300)
@example(5e-324)
@example(float("inf"))
@example(1 + 2**-24 + 2**-50)
def test_floats(value: float) -> None:
    arrays = [pa.array([value], pa.float64())]
    if np.isnan(value) or np.float64(np.float32(np.clip(value, -3e38, 3e38))) == value:
        arrays.append(pa.array([value], pa.float32()))
    assert same("DOUBLE", [json.dumps(value)], arrays) == bits(value)
    with np.errstate(over="ignore"):
        single = float(np.float32(value))
    beyond = math.isinf(single) and not math.isinf(value)
    assert same("FLOAT", [json.dumps(value)], arrays) == (REFUSED if beyond else bits(single))
    for declared in ("BIGINT", "BOOLEAN", "TIMESTAMP", "DATE", "VARCHAR"):
        assert {by_arrow(declared, array) for array in arrays} == {REFUSED}


@given(st.floats(-1e7, 1e7) | st.integers(-(10**9), 10**9).map(lambda n: n / 100) | st.floats())
@example(9.995)
@example(9.99)
@example(3.6169277770751304e-143)
@example(0.1 + 0.2)
def test_a_float_is_a_decimal_by_its_shortest_digits(value: float) -> None:
    found = same("DECIMAL(12,2)", [json.dumps(value)], [pa.array([value], pa.float64())])
    digits = Decimal(repr(value)) if math.isfinite(value) else Decimal("0.001")
    fits = digits == round(digits, 2) and abs(digits) < 10**10 if abs(digits) < 10**20 else False
    assert found == (round(digits, 2) if fits else REFUSED)


@given(
    st.integers(1, 18).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p))),
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20)
    | st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1000, max_value=1000),
)
@example((18, 2), Decimal("1234567890123456.78"))
@example((2, 2), Decimal("9.990"))
@example((12, 2), Decimal("9.990"))
def test_decimals(type_: tuple[int, int], value: Decimal) -> None:
    declared = f"DECIMAL({type_[0]},{type_[1]})"
    text = f"{value:f}"
    arrays = [
        pa.array([value], pa.decimal128(38, 6)),
        pa.array([value], pa.decimal256(76, 40)),
        pa.array([text]),
        pa.array([text], pa.string_view()),
    ]
    found = same(declared, [text, f'"{text}"'], arrays)
    scaled = value.scaleb(type_[1])
    fits = scaled == scaled.to_integral_value() and abs(scaled) < 10 ** type_[0]
    assert found == (value if fits else REFUSED)


@given(st.from_regex(r"[+-]?[0-9]{0,25}(\.[0-9]{0,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True) | st.text(max_size=4))
@example("1e2")
@example("")
@example("9.9900000000000000000000000000000000000000000")
@example("0000000000000000000000000000000000000000000000001.5")
@example("0.00000000000000000000000000000000000000000000000000")
def test_text_is_the_same_decimal_in_both(text: str) -> None:
    same("DECIMAL(12,2)", [json.dumps(text)], [pa.array([text]), pa.array([text], pa.large_string())])


@given(st.text())
@example("a\0b")
@example("\U0001f600")
def test_text(value: str) -> None:
    types = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
    raw = value.encode()
    arrays = [pa.array([value if "string" in str(type_) else raw], type_) for type_ in types]
    assert same("VARCHAR", [json.dumps(value), json.dumps(value, ensure_ascii=False)], arrays) == value


@given(st.dates())
@example(date(1, 1, 1))
@example(date(9999, 12, 31))
def test_dates(value: date) -> None:
    arrays = [pa.array([value], pa.date32()), pa.array([value], pa.date64()), pa.array([value.isoformat()])]
    assert same("DATE", [f'"{value.isoformat()}"'], arrays) == value
    midnight = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - as Dovetail has them
    assert same("TIMESTAMP", [f'"{value.isoformat()}"'], arrays) == midnight


@given(st.datetimes(), st.none() | st.integers(-23 * 60, 23 * 60))
@example(datetime(1, 1, 1), 1)  # noqa: DTZ001 - as Dovetail has them
@example(datetime(9999, 12, 31, 23, 59, 59, 999_999), -1)  # noqa: DTZ001 - as Dovetail has them
def test_timestamps(value: datetime, offset: int | None) -> None:
    zone = None if offset is None else timezone(timedelta(minutes=offset))
    text = value.replace(tzinfo=zone).isoformat()
    local_us = (value - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001 - as Dovetail has them
    utc_us = local_us - (offset or 0) * 60_000_000
    arrays = [pa.array([utc_us], pa.int64()).cast(type_) for type_ in (US, pa.timestamp("us", "Asia/Tokyo"))]
    for unit, us in (("ms", 1_000), ("s", 1_000_000)):
        if utc_us % us == 0:
            arrays.append(pa.array([utc_us // us], pa.int64()).cast(pa.timestamp(unit)))
    found = same("TIMESTAMP", [json.dumps(text)], [*arrays, pa.array([text])])
    try:
        assert found == value - timedelta(minutes=offset or 0)
    except OverflowError:
        assert found == REFUSED


@given(st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9](:[0-6][0-9]){0,2}(\.[0-9]{0,7})?)?(Z|[+-][0-2][0-9](:?[0-9]{2})?)?", fullmatch=True) | st.text(max_size=30))  # fmt: skip # noqa: E501
@example("0000-12-31")
@example("2024-01-01-02")
@example("2024-01-01T12:00:00.1234567")
@example("2016-12-31T23:59:60Z")
@example("2024-02-29T24:00:00")
def test_text_is_the_same_time_in_both(text: str) -> None:
    for declared in ("TIMESTAMP", "DATE"):
        same(declared, [json.dumps(text)], [pa.array([text]), pa.array([text], pa.large_string())])


@pytest.mark.parametrize("value", [True, False, None, 1, 0, 1.0, "true"])
def test_booleans(value: Any) -> None:
    found = same("BOOLEAN", [json.dumps(value)], [pa.array([value])])
    assert found is value if value is None or isinstance(value, bool) else found == REFUSED


# Each of these once became another value.
ONCE_ANOTHER_VALUE: list[tuple[str, pa.Array]] = [
    ("DECIMAL(12,2)", pa.array([9.995])),
    ("DATE", pa.array([1_704_110_400_000])),
    ("DATE", pa.array([datetime(2024, 1, 1, 23)], US)),  # noqa: DTZ001 - as Dovetail has them
    ("BOOLEAN", pa.array([2])),
    ("BOOLEAN", pa.array([0.5])),
    ("BIGINT", pa.array([datetime(2024, 1, 1)], US)),  # noqa: DTZ001 - as Dovetail has them
    ("BIGINT", pa.array([True])),
    ("TIMESTAMP", pa.array([1_704_110_400_000])),
    ("TIMESTAMP", pa.array([1_704_110_400_000_000_001]).cast(pa.timestamp("ns"))),
    ("TIMESTAMP", pa.array([-(2**63)]).cast(US)),
    ("VARCHAR", pa.array([7])),
    ("VARCHAR", pa.array([b"\xff"])),
    ("FLOAT", pa.array([1e300])),
    ("DOUBLE", pa.array([2**53 + 1])),
    ("DATE", pa.Array.from_buffers(pa.date64(), 1, [None, pa.py_buffer(struct.pack("<q", 86_400_001))])),
    ("DECIMAL(12,2)", pa.Array.from_buffers(pa.decimal128(5, -2), 1, [None, pa.py_buffer(bytes([1] + [0] * 15))])),
]


@pytest.mark.parametrize(
    ("declared", "array"), ONCE_ANOTHER_VALUE, ids=[f"{a.type} for {d}" for d, a in ONCE_ANOTHER_VALUE]
)
def test_what_arrow_would_turn_into_another_value_is_refused(declared: str, array: pa.Array) -> None:
    assert by_arrow(declared, array) == REFUSED


@pytest.mark.parametrize(
    "text", ["1e-100000000", "0e-2000000000", "1e-39", "3.6e-143", "0." + "0" * 60 + "1", "1234567e35", "1e" + "9" * 50]
)
def test_a_decimal_is_not_looked_for_in_memory_that_is_not_its_own(text: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in text)
    for declared in ("DECIMAL(12,2)", "DECIMAL(2,1)[]"):
        wrapped = (lambda v: f"[{v}]") if declared.endswith("]") else str
        for literal in (text, f'"{text}"', f'"{escaped}"'):
            assert by_json(declared, wrapped(literal)) == REFUSED
            value = b'{"t":"2024-01-01","\\u0076":%s}' % wrapped(literal).encode()
            assert decoded(declared, value) == REFUSED
    assert by_arrow("DECIMAL(12,2)", pa.array([text])) == REFUSED


@pytest.mark.parametrize("literal", ["1e400", "9e308", "-1.8e308", "1" + "0" * 309, "[1]", '"1"'])
def test_a_number_beyond_double_is_no_infinity(literal: str) -> None:
    assert by_json("DOUBLE", literal) == REFUSED
    assert by_json("DOUBLE[]", f"[{literal}]") == REFUSED


def test_an_infinity_beside_a_large_number_is_told_apart() -> None:
    messages = [b'{"t":"2024-01-01","v":%s}' % v for v in (b"Infinity", b"1.5e300", b"9e308", b"NaN")]
    found = wire.decode(poll_of(messages), table_of("DOUBLE"))
    assert [letter.offset for letter in found.dead] == [2]
    assert found.table.column("v").to_pylist()[:2] == [math.inf, 1.5e300]


ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(),
    "decimal(p,0)": pa.decimal128(9, 0), "decimal(p,s)": pa.decimal128(9, 3),
    "string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view(),
    "binary": pa.binary(), "large_binary": pa.large_binary(), "binary_view": pa.binary_view(),
    "date32": pa.date32(), "date64": pa.date64(), "timestamp": pa.timestamp("ns", "UTC"),
    "list": pa.list_(pa.int8()), "large_list": pa.large_list(pa.int8()), "fixed_size_list": pa.list_(pa.int8(), 2),
    "struct": pa.struct([("a", pa.int8())]),
    "list_view": pa.list_view(pa.int8()), "large_list_view": pa.large_list_view(pa.int8()),
    "map": pa.map_(pa.string(), pa.int8()), "run_end_encoded": pa.run_end_encoded(pa.int32(), pa.int8()),
    "duration": pa.duration("s"), "time64": pa.time64("us"), "fixed_size_binary": pa.binary(3), "uuid": pa.uuid(),
    "interval": pa.month_day_nano_interval(), "union": pa.dense_union([pa.field("a", pa.int8())]),
}  # fmt: skip
DECLARED = {
    "BOOLEAN": "BOOLEAN", "TINYINT": "TINYINT", "SMALLINT": "SMALLINT", "INTEGER": "INTEGER", "BIGINT": "BIGINT",
    "DOUBLE": "DOUBLE", "FLOAT": "FLOAT", "DECIMAL(p,s)": "DECIMAL(9,3)", "VARCHAR": "VARCHAR", "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP", "T[]": "TINYINT[]", "STRUCT(…)": "STRUCT(a TINYINT)",
}  # fmt: skip


def _page() -> dict[str, set[str]]:
    """By declared type: the Arrow types that docs/types.md says are taken."""
    text = (ROOT / "docs" / "types.md").read_text().split("## By declared type")[1].split("##")[0]
    floats, decimals = {"float16", "float32", "float64"}, {"decimal(p,0)", "decimal(p,s)"}
    integers = {name for name in ARROW if re.fullmatch(r"u?int\d+", name)}
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or not cells[0].startswith("`"):
            continue
        words = cells[2]
        taken = {name for name in re.findall(r"`([^`]+)`", words) if name in ARROW}
        like_double = "as `DOUBLE`" in words
        taken |= integers if "integers" in words else set()
        taken |= floats if "a float" in words or like_double else set()
        taken |= decimals if "decimal(p,s)" in taken or like_double else set()
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), taken)
    return found


def test_the_page_names_every_type_that_is_taken_and_no_other() -> None:
    page = _page()
    assert page.keys() == DECLARED.keys()
    for name, declared in DECLARED.items():
        type_ = table_of(declared).arrow.field("v").type
        taken = {arrow for arrow, found in ARROW.items() if why_not_taken(found, type_) is None}
        assert taken == page[name], name
        assert why_not_taken(pa.null(), type_) is None
        assert why_not_taken(pa.dictionary(pa.int8(), pa.list_(pa.int8())), type_) is not None
