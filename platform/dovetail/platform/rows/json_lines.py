"""JSON messages to rows: a whole poll in one parse, each message exactly one object.

The parser reads objects one after the other and does not care where a message ends, so what it must not be given is
sorted out before: anything that does not begin and end as an object does (``null`` at the top level ends the process),
and bytes that are no text. A message may hold line breaks; they stand between tokens, as blanks do.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dovetail.platform.errors import WireError
from dovetail.platform.rows.conversion import (
    MAX_DECODED_BYTES,
    UNUSUAL_DECIMAL,
    WIDE_DECIMAL,
    check_decimal_text,
    columns_of,
    conform,
    kind_of,
)
from dovetail.platform.rows.schema import TableSchema

__all__ = ["BYTE_ORDER_MARK", "looks_like_an_object", "parse", "why_not"]

#: Why a text is refused that begins with one.
BYTE_ORDER_MARK = (
    "it begins with a byte order mark (the bytes EF BB BF), which JSON has not; write UTF-8 without one ('utf-8' in "
    "Python, not 'utf-8-sig')"
)
_WHITESPACE = b" \t\r\n"
# Numbers that may be beyond the range of a DOUBLE although the parser takes them.
_LARGE_NUMBER = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")
# Unusual decimals, or what may be some, wherever they stand; and a name in which letters are escaped.
_ANYWHERE = r"[0-9.][eE][+-]?[0-9\\]|[0-9.]{38}|\\u00"
_ESCAPED_NAME = re.compile(rb'\\[^"]*"\s*:')
_SMALL = 8_192
_MAX_BLOCK = (1 << 31) - 2


def looks_like_an_object(value: bytes) -> bool:
    """Whether ``value`` begins and ends as a JSON object does. Nothing else may reach :func:`parse`.

    Of values that do, each is whole objects as far as the parser is concerned: between a closing and an opening brace
    it takes nothing, and a line break inside a text is an error.
    """
    stripped = value.strip(_WHITESPACE)
    return stripped[:1] == b"{" and stripped[-1:] == b"}"


def parse(values: Sequence[bytes], schema: TableSchema) -> pa.Table:
    """One row per value, as declared; each value :func:`looks_like_an_object`.

    Raises:
        WireError: a value is malformed, does not fit the schema, or would take too much memory.
    """
    joined = b"\n".join(values)
    _check_text(joined, len(values), schema)
    _check_decimal_texts(values, joined, schema)
    try:
        return _rows(joined, len(values), schema, wide=False)
    except WireError as error:
        if "decimal" not in str(error):
            raise
        try:
            # The parser takes decimals of the declared digits; 9.990 for DECIMAL(2,2) has more, and loses nothing.
            return _rows(joined, len(values), schema, wide=True)
        except WireError:
            raise error from None


def _rows(joined: bytes, count: int, schema: TableSchema, *, wide: bool) -> pa.Table:
    table = _read(joined, _read_schema(schema, wide=wide))
    if table.num_rows != count:
        raise WireError("more than one JSON object in a message")
    _check_infinities(joined, count, table, schema)
    _check_decimals(table, schema)
    return conform(table, schema)


def why_not(value: bytes, schema: TableSchema, error: str) -> str:
    """Why one message was refused with ``error``: in the words of a strict parser where that knows better."""
    if value.startswith(codecs.BOM_UTF8):
        return BYTE_ORDER_MARK
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as malformed:
        return f"not valid JSON: {malformed}"
    if not isinstance(parsed, dict):
        return f"a JSON {type(parsed).__name__}, not an object"
    missing = [name for name in schema.required if parsed.get(name) is None]
    if missing:
        return f"column {missing[0]} is missing or NULL; it is NOT NULL in {schema.file}"
    return f"does not fit {schema.name} as declared in {schema.file}: {error}"


def _check_text(joined: bytes, count: int, schema: TableSchema) -> None:
    """What the parser does not look at: encoding, its own end mark, and how much it will allocate."""
    if b"\0" in joined:
        raise WireError("a byte 0, which JSON has escaped")
    try:
        joined.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"not valid UTF-8: {error}") from error
    struct = _struct_bytes(schema)
    decoded = len(joined) + (joined.count(b"{") - count) * struct + joined.count(b",") * 16 if struct else len(joined)
    if decoded > max(MAX_DECODED_BYTES, 2 * len(joined)) or len(joined) > _MAX_BLOCK:
        raise WireError(f"up to {decoded} bytes once decoded; {MAX_DECODED_BYTES} are allowed")


@lru_cache(maxsize=256)
def _struct_bytes(schema: TableSchema) -> int:
    """Bytes that one element ``{}`` of the list of structs with most members takes; 0 where there is none."""
    return max((_widest(field.type) for field in schema.arrow), default=0)


def _widest(type_: pa.DataType) -> int:
    below = max((_widest(type_.field(at).type) for at in range(type_.num_fields)), default=0)
    return max(below, 16 * type_.num_fields) if pa.types.is_struct(type_) else below


def _check_decimal_texts(values: Sequence[bytes], joined: bytes, schema: TableSchema) -> None:
    """That no decimal is written so that the parser would look for it in memory that is not its own."""
    pattern = _unusual_decimals(schema)
    if pattern is None:
        return
    if b"\\" in joined and _ESCAPED_NAME.search(joined):
        pattern = _ANYWHERE
    if len(joined) < _SMALL:  # a call of Arrow's costs more than looking at so little
        if not re.search(pattern.encode(), joined):
            return
    elif not pc.match_substring_regex(pa.scalar(joined, pa.binary()), pattern).as_py():
        return
    for at in np.flatnonzero(pc.match_substring_regex(pa.array(values, pa.binary()), pattern)).tolist():
        row = json.loads(values[at], parse_float=str, parse_int=str)
        for declared in columns_of(schema):
            if declared.has_decimals:
                _check_decimals_within(row.get(declared.name), declared.type)


def _check_decimals_within(value: Any, declared: pa.DataType) -> None:
    kind = kind_of(declared)
    if kind == "decimal" and isinstance(value, str):
        check_decimal_text(value)
    elif kind == "list" and isinstance(value, list):
        for each in value:
            _check_decimals_within(each, declared.value_type)
    elif kind == "struct" and isinstance(value, dict):
        for member in declared:
            _check_decimals_within(value.get(member.name), member.type)


@lru_cache(maxsize=256)
def _unusual_decimals(schema: TableSchema) -> str | None:
    """Finds values of the declared decimals that are written in an unusual way; None when none is declared."""
    names = {name for field in schema.arrow for name in _decimal_names(field.name, field.type)}
    if None in names:
        return _ANYWHERE
    either = "|".join(sorted(re.escape(name) for name in names if name is not None))
    return rf'"(?:{either})"\s*:\s*"?[^",}}\]]*(?:[\\]|{UNUSUAL_DECIMAL})' if names else None


def _decimal_names(name: str | None, type_: pa.DataType) -> Iterator[str | None]:
    """What stands before the decimals in a column: their names; None for those in lists, or not plainly written."""
    kind = kind_of(type_)
    if kind == "decimal":
        yield name if name is not None and name.isascii() and name.isidentifier() else None
    elif kind == "list":
        yield from _decimal_names(None, type_.value_type)
    elif kind == "struct":
        for member in type_:
            yield from _decimal_names(member.name, member.type)


def _read(joined: bytes, schema: pa.Schema) -> pa.Table:
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    # One block: it is cut at line breaks, and a message may hold some. One thread: a poll is small.
    read = pj.ReadOptions(use_threads=False, block_size=max(1 << 20, len(joined) + 1))
    try:
        # Read as a stream, of one block, because read_json hands even that to another thread.
        with pj.open_json(pa.BufferReader(joined), read_options=read, parse_options=options) as reader:
            return reader.read_all()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WireError(str(error)) from error


@lru_cache(maxsize=256)
def _read_schema(schema: TableSchema, *, wide: bool) -> pa.Schema:
    """What the parser reads columns as; :func:`conform` does the rest."""
    return pa.schema([pa.field(field.name, _read_type(field.type, wide)) for field in schema.arrow])


def _read_type(declared: pa.DataType, wide: bool) -> pa.DataType:
    kind = kind_of(declared)
    if kind == "date":
        return pa.string()
    if kind == "float":  # to FLOAT by way of DOUBLE, as from Arrow
        return pa.float64()
    if kind == "decimal" and wide:
        return WIDE_DECIMAL
    if kind == "list":
        return pa.list_(_read_type(declared.value_type, wide))
    if kind == "struct":
        return pa.struct([pa.field(member.name, _read_type(member.type, wide)) for member in declared])
    return declared


def _check_infinities(joined: bytes, count: int, table: pa.Table, schema: TableSchema) -> None:
    """That no number was too large for a DOUBLE: an infinity must have been written as one."""
    floats = [table.column(declared.name) for declared in columns_of(schema) if declared.has_floats]
    if not any(_infinite(chunk) for column in floats for chunk in column.chunks):
        return
    if _LARGE_NUMBER.search(joined):
        if count > 1:
            raise WireError("a number may be beyond the range of DOUBLE")
        json.loads(joined, parse_float=_finite, parse_int=_finite)


def _check_decimals(table: pa.Table, schema: TableSchema) -> None:
    """That decimals fit their precision: the parser checks the digits that stand there, 10000000000 for (12,2) too."""
    for declared in columns_of(schema):
        if declared.has_decimals:
            try:
                table.column(declared.name).validate(full=True)
            except pa.ArrowInvalid as error:
                raise WireError(f"column {declared.name}, declared {declared.type}: {error}") from error


def _infinite(array: pa.Array) -> bool:
    kind = kind_of(array.type)
    if kind == "list":
        return _infinite(array.flatten())
    if kind == "struct":
        return any(_infinite(member) for member in array.flatten())
    return kind == "float" and bool(pc.any(pc.is_inf(array)).as_py())


def _finite(number: str) -> float:
    if math.isinf(float(number)):
        raise WireError(f"{number[:40]} is beyond the range of DOUBLE")
    return float(number)
