"""One conversion from what a message holds to what a table declares: exact, or refused.

JSON and Arrow go through the same table, :data:`ACCEPTED` (in words: ``docs/types.md``), so a value means the same
however it is sent. Nothing is truncated, wrapped, cut or reinterpreted: a value that the declared type cannot hold
refuses its message. Types are compared before any value is looked at (:func:`why_not_taken`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.errors import WireError
from dovetail.platform.rows.schema import TableSchema

__all__ = [
    "ACCEPTED",
    "MAX_DECODED_BYTES",
    "MAX_TIME_US",
    "MIN_TIME_US",
    "UNUSUAL_DECIMAL",
    "WIDE_DECIMAL",
    "Column",
    "check_decimal_text",
    "columns_of",
    "conform",
    "convert",
    "kind_of",
    "why_not_taken",
]

#: The first and the last microsecond of the years 0001 to 9999, since 1970-01-01 UTC.
MIN_TIME_US = -62_135_596_800_000_000
MAX_TIME_US = 253_402_300_799_999_999
_DAY_US = 86_400_000_000

#: What one message may take in memory once it is decoded, in bytes; checked before anything is allocated.
MAX_DECODED_BYTES = 128 << 20

#: For each kind of declared type the kinds of types it is taken from. NULL and a dictionary of a taken kind always are.
ACCEPTED: Mapping[str, frozenset[str]] = {
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer", "decimal"}),
    "float": frozenset({"float", "integer", "decimal"}),
    "decimal": frozenset({"decimal", "integer", "float", "text"}),
    "text": frozenset({"text", "binary"}),
    "date": frozenset({"date", "text"}),
    "timestamp": frozenset({"timestamp", "date", "text"}),
    "list": frozenset({"list"}),
    "struct": frozenset({"struct"}),
}

_IDS: Mapping[str, str] = {
    "null": "NA",
    "boolean": "BOOL",
    "integer": "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64",
    "float": "HALF_FLOAT FLOAT DOUBLE",
    "decimal": "DECIMAL32 DECIMAL64 DECIMAL128 DECIMAL256",
    "text": "STRING LARGE_STRING STRING_VIEW",
    "binary": "BINARY LARGE_BINARY BINARY_VIEW",
    "date": "DATE32 DATE64",
    "timestamp": "TIMESTAMP",
    "list": "LIST LARGE_LIST FIXED_SIZE_LIST",
    "struct": "STRUCT",
    "dictionary": "DICTIONARY",
}
_KINDS: Mapping[int, str] = {
    getattr(pa.lib, f"Type_{name}"): kind
    for kind, names in _IDS.items()
    for name in names.split()
    if hasattr(pa.lib, f"Type_{name}")  # younger versions of Arrow know more of them
}
_FLAT = frozenset({"null", "boolean", "integer", "float", "decimal", "text", "binary", "date", "timestamp"})

#: Text and binary floating point become decimals by way of this type: 18 digits on both sides of the point fit.
WIDE_DECIMAL = pa.decimal128(38, 20)
_DECIMAL_DIGITS = 38
#: Finds the numbers that :func:`check_decimal_text` must see, in RE2's language.
UNUSUAL_DECIMAL = r"[eE]|[0-9.]{38}"
_DECIMAL_TEXT = re.compile(r"[+-]?([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?")
#: A time of day that ends with a zone; a date alone ends with its day, which may look like one.
_ZONE = r"^.{10}[T ].*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


def kind_of(type_: pa.DataType) -> str | None:
    """The kind of a type in :data:`ACCEPTED`, "null" or "dictionary"; None for a type that no message may have.

    Of no kind are views of lists, run-end encoded and extension types, maps, unions, intervals, times of day, durations
    and binaries of fixed size.
    """
    return _KINDS.get(type_.id)


def why_not_taken(found: pa.DataType, declared: pa.DataType) -> str | None:
    """Why no value of type ``found`` is taken for a column of type ``declared``; None when they may fit.

    Looks at the types alone, at every level of lists and structs.
    """
    kind, wanted = kind_of(found), kind_of(declared)
    if kind == "dictionary":
        if kind_of(found.value_type) not in _FLAT or not pa.types.is_integer(found.index_type):
            return f"a dictionary of {found.value_type} is not taken"
        return why_not_taken(found.value_type, declared)
    if kind == "null":
        return None
    if wanted is None or kind not in ACCEPTED[wanted]:
        return f"{found} is not taken for {declared}"
    if kind == "decimal" and not 0 <= found.scale <= found.precision:
        return f"{found} has a scale that is not between 0 and its precision"
    if kind == "decimal" and wanted == "integer" and found.scale:
        return f"{found} is not taken for {declared}: only a decimal without fraction (scale 0) is"
    if kind == "list":
        return why_not_taken(found.value_type, declared.value_type)
    if kind == "struct":
        return _why_not_struct(found, declared)
    return None


def _why_not_struct(found: pa.DataType, declared: pa.DataType) -> str | None:
    names = [field.name for field in found]
    for member in declared:
        if names.count(member.name) > 1:
            return f"member {member.name} stands in it twice"
        if member.name in names and (why := why_not_taken(found.field(member.name).type, member.type)):
            return f"member {member.name}: {why}"
    return None


def conform(raw: pa.Table, schema: TableSchema) -> pa.Table:
    """The declared columns of ``raw`` (valid in full) in declared order and type; one that is absent is NULL.

    Raises:
        WireError: a column cannot be taken as declared, or a NOT NULL column is missing or NULL.
    """
    columns = []
    at = {name: index for index, name in enumerate(raw.column_names)}
    for declared in columns_of(schema):
        if declared.name in at:
            column = _conformed(raw.column(at[declared.name]), declared, schema)
        else:
            column = pa.nulls(raw.num_rows, declared.type)
        if not declared.nullable and column.null_count:
            raise WireError(f"column {declared.name} is missing or NULL; it is NOT NULL in {schema.file}")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema.arrow)


class Column(NamedTuple):
    """A declared column, with what is asked of its type for every poll."""

    name: str
    type: pa.DataType
    nullable: bool
    has_times: bool
    has_floats: bool
    has_decimals: bool


_LOOKED_FOR = (("timestamp", "date"), ("float",), ("decimal",))


@lru_cache(maxsize=256)
def columns_of(schema: TableSchema) -> tuple[Column, ...]:
    """The declared columns, in declared order."""
    return tuple(
        Column(f.name, f.type, f.nullable, *(_holds(f.type, *kinds) for kinds in _LOOKED_FOR)) for f in schema.arrow
    )


def _holds(type_: pa.DataType, *kinds: str) -> bool:
    """Whether ``type_`` is of one of ``kinds``, or has one inside."""
    return kind_of(type_) in kinds or any(_holds(type_.field(at).type, *kinds) for at in range(type_.num_fields))


def _conformed(column: pa.ChunkedArray, declared: Column, schema: TableSchema) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    why = None if array.type == declared.type else why_not_taken(array.type, declared.type)
    if why is None:
        try:
            array = convert(array, declared.type)
            if declared.has_times:
                _check_times(array)
        except (WireError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            why = str(error)
        else:
            return array
    found = "" if column.type == declared.type else f" is {column.type}, declared {declared.type} in {schema.file}"
    raise WireError(f"column {declared.name}{found}: {why}")


def convert(array: pa.Array, declared: pa.DataType) -> pa.Array:
    """``array`` (valid in full) as ``declared``, value by value the same; its type passed :func:`why_not_taken`.

    Raises:
        WireError: a value is outside of what ``declared`` can hold.
        pyarrow.ArrowInvalid: likewise, as Arrow words it.
    """
    if array.type == declared:
        return array
    kind = kind_of(array.type)
    if kind == "null":
        return pa.nulls(len(array), declared)
    if kind == "dictionary":
        return convert(_without_dictionary(array), declared)
    return _TO[kind_of(declared) or ""](array, declared)


def _without_dictionary(array: pa.DictionaryArray) -> pa.Array:
    values = array.dictionary
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):  # which cannot be taken from
        values = convert(values, pa.string()) if pa.types.is_string_view(values.type) else values.cast(pa.binary())
    if kind_of(values.type) in ("text", "binary"):
        _check_bytes(pc.sum(_text_lengths(values).take(array.indices)).as_py())
    return values.take(array.indices)


def _text_lengths(text: pa.Array) -> pa.Array:
    """Bytes of each text, int64."""
    if not (pa.types.is_string_view(text.type) or pa.types.is_binary_view(text.type)):
        return pc.binary_length(text).cast(pa.int64())
    # Views may overlap, so their buffers do not bound their sum. A view has 16 bytes, the first 4 are its length.
    views = np.frombuffer(text.buffers()[1], np.int32).reshape(-1, 4)[text.offset : text.offset + len(text), 0]
    return pa.array(views.astype(np.int64), mask=np.asarray(text.is_null()))


def _check_bytes(found: int | None) -> None:
    if found is not None and found > MAX_DECODED_BYTES:
        raise WireError(f"its text takes {found} bytes once decoded; {MAX_DECODED_BYTES} are allowed")


def _to_text(array: pa.Array, declared: pa.DataType) -> pa.Array:
    _check_bytes(pc.sum(_text_lengths(array)).as_py())
    if pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    return array.cast(declared)


def _to_integer(array: pa.Array, declared: pa.DataType) -> pa.Array:
    kind = kind_of(array.type)
    if kind == "decimal":
        array = _rescaled(array, pa.decimal128(19, 0))
    return array.cast(declared)


def _to_float(array: pa.Array, declared: pa.DataType) -> pa.Array:
    kind = kind_of(array.type)
    if kind == "decimal":  # by its digits, as they stand in JSON
        array = array.cast(pa.string()).cast(pa.float64())
    found = array.cast(declared)
    if kind != "integer" and pc.any(pc.and_(pc.is_inf(found), pc.is_finite(array))).as_py():
        raise WireError(f"a number is beyond the range of {declared}")
    return found


def _to_decimal(array: pa.Array, declared: pa.DataType) -> pa.Array:
    kind = kind_of(array.type)
    if kind == "integer":
        # 20 digits hold every integer of 64 bits, 18 more every scale that can be declared.
        array = array.cast(pa.decimal128(20, 0))
    elif kind == "float":  # by the shortest digits that give the number back, as they stand in JSON
        array = _decimal_of_text(array.cast(pa.float64()).cast(pa.string()))
    elif kind == "text":
        array = _decimal_of_text(array.cast(pa.string()))
    return _rescaled(array, declared)


def _decimal_of_text(text: pa.Array) -> pa.Array:
    unusual = pc.match_substring_regex(text, UNUSUAL_DECIMAL)
    if pc.any(unusual).as_py():
        for number in pc.unique(text.filter(unusual)).to_pylist():
            check_decimal_text(number)
    return text.cast(WIDE_DECIMAL)


def check_decimal_text(number: str) -> None:
    """That a number may be read as a decimal at all: its digits, with those its exponent adds, are at most 38.

    Arrow looks beyond the end of a table of powers of ten otherwise, and takes what it finds there, if anything.

    Raises:
        WireError: it has more.
    """
    parts = _DECIMAL_TEXT.fullmatch(number)
    if parts is None:
        return  # no number: Arrow says so
    whole, fraction, exponent = parts[1].lstrip("0"), parts[2] or "", parts[3] or "0"
    shift = int(exponent) if len(exponent) < _DECIMAL_DIGITS else _DECIMAL_DIGITS
    if len(whole) + len(fraction) + abs(shift) > _DECIMAL_DIGITS:
        raise WireError(f"{number[:60]} has more than {_DECIMAL_DIGITS} digits, with those its exponent adds")


def _rescaled(array: pa.Array, declared: pa.DataType) -> pa.Array:
    """Decimals with another precision and scale; first narrowed at their own scale, so that nothing overflows."""
    found = array.type
    more = declared.scale - found.scale
    if more > 0:
        if declared.precision > more:
            array = array.cast(_decimal_like(found, declared.precision - more, found.scale))
        elif pc.any(pc.not_equal(array, pa.scalar(0, found))).as_py():
            raise WireError(f"a number does not fit {declared}")
    return array.cast(declared)


def _decimal_like(found: pa.DataType, precision: int, scale: int) -> pa.DataType:
    """A decimal as wide as ``found`` allows with that precision and scale."""
    return pa.decimal256(precision, scale) if pa.types.is_decimal256(found) else pa.decimal128(precision, scale)


def _to_date(array: pa.Array, declared: pa.DataType) -> pa.Array:
    kind = kind_of(array.type)
    if kind == "text":
        return array.cast(pa.string()).cast(declared)
    return _days(array).cast(declared)


def _days(dates: pa.Array) -> pa.Array:
    """date32 of date32 or date64, which counts milliseconds."""
    if pa.types.is_date64(dates.type):
        milliseconds = dates.cast(pa.int64())
        days = pc.divide(milliseconds, 86_400_000)
        if pc.any(pc.not_equal(pc.multiply(days, 86_400_000), milliseconds)).as_py():
            raise WireError("a date is not a whole day")
        return days.cast(pa.int32()).cast(pa.date32())
    return dates


def _to_timestamp(array: pa.Array, declared: pa.DataType) -> pa.Array:
    kind = kind_of(array.type)
    if kind == "date":
        return _days(array).cast(declared)
    if kind == "text":
        return _timestamp_of_text(array.cast(pa.string()), declared)
    return array.cast(pa.timestamp(array.type.unit)).cast(declared)


def _timestamp_of_text(text: pa.Array, declared: pa.DataType) -> pa.Array:
    zoned = pc.match_substring_regex(text, _ZONE)
    none = pa.scalar(None, pa.string())
    instants = pc.if_else(zoned, text, none).cast(pa.timestamp("us", "UTC")).cast(declared)
    return pc.coalesce(instants, pc.if_else(zoned, none, text).cast(declared))


def _to_list(array: pa.Array, declared: pa.DataType) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(lengths.to_numpy(zero_copy_only=False), out=offsets[1:])
    values = convert(array.flatten(), declared.value_type)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int64()).cast(pa.int32()), values, type=declared, mask=array.is_null()
    )


def _to_struct(array: pa.Array, declared: pa.DataType) -> pa.Array:
    found = dict(zip([field.name for field in array.type], array.flatten(), strict=True))
    members = [
        convert(found[member.name], member.type) if member.name in found else pa.nulls(len(array), member.type)
        for member in declared
    ]
    return pa.StructArray.from_arrays(members, fields=list(declared), mask=array.is_null())


_TO: Mapping[str, Callable[[pa.Array, pa.DataType], pa.Array]] = {
    "boolean": lambda array, declared: array.cast(declared),
    "integer": _to_integer,
    "float": _to_float,
    "decimal": _to_decimal,
    "text": _to_text,
    "date": _to_date,
    "timestamp": _to_timestamp,
    "list": _to_list,
    "struct": _to_struct,
}


def _check_times(array: pa.Array) -> None:
    """That timestamps and dates, at every level, are of the years 0001 to 9999."""
    kind = kind_of(array.type)
    if kind == "list":
        _check_times(array.flatten())
    elif kind == "struct":
        for member in array.flatten():
            _check_times(member)
    elif kind in ("timestamp", "date"):
        days = kind == "date"
        numbers = array.view(pa.int32() if days else pa.int64())
        if numbers.null_count:
            numbers = numbers.drop_null()
        if len(numbers) == 0:
            return
        found = numbers.to_numpy()
        scale = _DAY_US if days else 1
        if int(found.min()) * scale < MIN_TIME_US or int(found.max()) * scale > MAX_TIME_US:
            raise WireError(f"a {kind} is outside of the years 0001 to 9999")
