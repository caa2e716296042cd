"""Operands of compiled expressions, and the types DuckDB's binder settles them to.

A literal has no type of its own yet: ``1`` next to a BIGINT is a BIGINT, next to a DOUBLE a DOUBLE. Where the rules
here do not reach, :class:`Unsupported` leaves the expression to DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dovetail.features.expressions import arrow_kernels as kernels
from dovetail.features.expressions.arrow_kernels import Columns, NotProven, Value

__all__ = [
    "INTEGERS",
    "Compiled",
    "Literal",
    "Node",
    "Rows",
    "Unsupported",
    "as_type",
    "common_type",
    "literal_value",
    "numeric",
    "remembering",
    "settle",
]

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
#: Digits that survive the way through a double; a longer decimal literal is left to DuckDB.
_EXACT_DIGITS = 15


class Rows(dict[str, pa.Array]):
    """Columns that expressions are evaluated over, and what is known of them already."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns)
        self.known: dict[Callable[[Rows], Value], Value] = {}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled expression and its Arrow type, which is the type DuckDB binds."""

    type: pa.DataType
    run: Callable[[Rows], Value]
    #: It cast to other types; a cast is a part that expressions share, too.
    casts: dict[pa.DataType, Compiled] = field(default_factory=dict, repr=False, compare=False)

    def evaluate(self, columns: Columns, rows: int) -> pa.Array:
        """The expression's values over ``columns`` of ``rows`` rows each.

        Raises:
            NotProven: DuckDB has to decide.
        """
        try:
            value = self.run(columns if isinstance(columns, Rows) else Rows(columns))
        except pa.ArrowInvalid as error:
            raise NotProven(str(error)) from error
        return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant whose type is settled by what it meets, as DuckDB's integer and NULL literals are."""

    kind: str
    text: str | None


Node = Compiled | Literal


def remembering(node: Node) -> Node:
    """``node``, evaluated at most once over the same :class:`Rows`."""
    if isinstance(node, Literal):
        return node
    run = node.run

    def known(columns: Rows) -> Value:
        if run not in columns.known:
            columns.known[run] = run(columns)
        return columns.known[run]

    return Compiled(node.type, known)


class Unsupported(Exception):
    """Not in the proven set."""


def numeric(type_: pa.DataType) -> bool:
    return type_ in INTEGERS or type_ == pa.float64() or pa.types.is_decimal128(type_)


def common_type(*nodes: Node, literals_only: bool) -> pa.DataType:
    """The type DuckDB casts ``nodes`` to; ``literals_only`` says whether literals alone may settle it."""
    types = {node.type for node in nodes if isinstance(node, Compiled)}
    literals = [node for node in nodes if isinstance(node, Literal) and node.kind != "NULL_LITERAL"]
    if not types:
        if not literals_only or not literals:
            raise Unsupported("literals only")
        types = {settle(literal).type for literal in literals}
    if pa.float64() in types and all(numeric(type_) for type_ in types):
        type_ = pa.float64()
    elif all(type_ in INTEGERS for type_ in types):
        type_ = max(types, key=lambda t: t.bit_width)
        if any(literal.kind == "INTEGER" and not _fits(literal, type_) for literal in literals):
            type_ = _widened(type_, literals)
    elif len(types) == 1:
        type_ = types.pop()
    else:
        raise Unsupported("mixed types")
    for literal in literals:
        literal_value(literal, type_)
    return type_


def _fits(literal: Literal, type_: pa.DataType) -> bool:
    limit = 1 << (type_.bit_width - 1)
    return bool(-limit <= int(literal.text or "") < limit)


def _widened(type_: pa.DataType, literals: list[Literal]) -> pa.DataType:
    """An INTEGER column next to a literal beyond it is BIGINT; narrower columns are left to DuckDB."""
    if type_ == pa.int32() and all(lit.kind == "INTEGER" and _fits(lit, pa.int64()) for lit in literals):
        return pa.int64()
    raise Unsupported("literal out of range")


def settle(node: Node) -> Compiled:
    """A literal on its own, typed as DuckDB types it; anything else as it is."""
    if isinstance(node, Compiled):
        return node
    if node.kind == "INTEGER":
        type_ = next((t for t in (pa.int32(), pa.int64()) if _fits(node, t)), None)
    else:
        type_ = {"STRING": pa.string(), "BOOLEAN": pa.bool_()}.get(node.kind)
    if type_ is None:
        raise Unsupported("literal")
    return as_type(node, type_)


def as_type(node: Node, type_: pa.DataType, *, narrowing: bool = False) -> Compiled:
    """``node`` cast to ``type_`` the way DuckDB casts."""
    if isinstance(node, Literal):
        value = pa.scalar(literal_value(node, type_), type_)
        return Compiled(type_, lambda _: value)
    if node.type == type_:
        return node
    kernel = kernels.cast(node.type, type_, narrowing=narrowing)
    if kernel is None:
        raise Unsupported(f"cast of {node.type} to {type_}")
    if type_ not in node.casts:
        cast = Compiled(type_, lambda columns: kernel(node.run(columns)))
        node.casts[type_] = remembering(cast)  # type: ignore[assignment]
    return node.casts[type_]


def literal_value(literal: Literal, type_: pa.DataType) -> Any:
    text = literal.text or ""
    if literal.kind == "NULL_LITERAL":
        return None
    if literal.kind == "INTEGER" and type_ in INTEGERS and _fits(literal, type_):
        return int(text)
    if literal.kind in ("INTEGER", "NUMERIC") and type_ == pa.float64():
        if sum(character.isdigit() for character in text) <= _EXACT_DIGITS or "e" in text.lower():
            return float(text)
    elif literal.kind in ("INTEGER", "NUMERIC") and pa.types.is_decimal128(type_):
        value = kernels.exact_decimal(text, type_)
        if value is not None:
            return value
    elif literal.kind == "STRING" and type_ == pa.string():
        return literal.text or ""
    elif literal.kind == "BOOLEAN" and type_ == pa.bool_():
        return text == "true"
    raise Unsupported("literal")
