"""The compiled lane: DuckDB expressions as Arrow kernels.

A DuckDB call costs milliseconds before it touches a row; a ranking request has a few hundred rows and a few
milliseconds. So expressions made of a *proven* set of operations are compiled to Arrow compute calls, some microseconds
each. Proven means: property tests compare them with DuckDB bit for bit, over NULL, NaN, infinities and extremes.

The input is DuckDB's own syntax tree (``batch/binding.py`` gets it), so nothing hangs on a second parser reading
precedence, ``log`` or ``//`` the way DuckDB does. Whatever is not in the set compiles to None and stays in DuckDB.

A kernel keeps to one contract: **it returns DuckDB's value, or it raises** :class:`NotProven`. It evaluates every
branch of a CASE over every row, so it may raise where DuckDB would not; the caller then asks DuckDB
(``evaluate.py``), whose answer, value or error, is the meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features import arrow_kernels as kernels
from dovetail.features.arrow_kernels import Columns, NotProven, Value

__all__ = ["Compiled", "NotProven", "Tree", "compile_expression"]

#: A node of DuckDB's ``json_serialize_sql``.
Tree = Mapping[str, Any]

_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_CASTS = {
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
}
_COMPARISONS = {
    "COMPARE_EQUAL": "equal",
    "COMPARE_NOTEQUAL": "not_equal",
    "COMPARE_LESSTHAN": "less",
    "COMPARE_LESSTHANOREQUALTO": "less_equal",
    "COMPARE_GREATERTHAN": "greater",
    "COMPARE_GREATERTHANOREQUALTO": "greater_equal",
}
#: Digits that survive the way through a double; a longer decimal literal is left to DuckDB.
_EXACT_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled expression and its Arrow type, which is the type DuckDB binds."""

    type: pa.DataType
    run: Callable[[Columns], Value]

    def evaluate(self, columns: Columns, rows: int) -> pa.Array:
        """The expression's values over ``columns`` of ``rows`` rows each.

        Raises:
            NotProven: DuckDB has to decide.
        """
        try:
            value = self.run(columns)
        except pa.ArrowInvalid as error:
            raise NotProven(str(error)) from error
        return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value


@dataclass(frozen=True, slots=True)
class _Literal:
    """A constant whose type is settled by what it meets, as DuckDB's integer and NULL literals are."""

    kind: str
    text: str | None


_Node = Compiled | _Literal


class _Unsupported(Exception):
    """Not in the proven set."""


def compile_expression(tree: Tree, schema: pa.Schema) -> Compiled | None:
    """``tree`` over columns of ``schema`` as kernels, or None when it is not made of proven operations only.

    The result's type is DuckDB's for every tree that compiles; ``definitions.py`` checks that against the bound type.
    """
    try:
        return _settle(_node(tree, schema))
    except _Unsupported:
        return None


def _node(tree: Tree, schema: pa.Schema) -> _Node:
    handler = _HANDLERS.get(tree["class"])
    if handler is None:
        raise _Unsupported(tree["class"])
    return handler(tree, schema)


def _compiled(tree: Tree, schema: pa.Schema) -> Compiled:
    node = _node(tree, schema)
    if isinstance(node, _Literal):
        raise _Unsupported("a literal where a column is expected")
    return node


def _column(tree: Tree, schema: pa.Schema) -> _Node:
    names = tree["column_names"]
    if len(names) != 1 or names[0] not in schema.names:
        raise _Unsupported("column")
    name = str(names[0])
    return Compiled(schema.field(name).type, lambda columns: columns[name])


def _constant(tree: Tree, _: pa.Schema) -> _Node:
    literal = tree["literal"]
    if literal["kind"] not in ("INTEGER", "NUMERIC", "STRING", "BOOLEAN", "NULL_LITERAL"):
        raise _Unsupported(literal["kind"])
    return _Literal(literal["kind"], literal.get("text"))


def _function(tree: Tree, schema: pa.Schema) -> _Node:
    name = tree["function_name"].lower()
    if tree.get("distinct") or tree.get("filter") or tree.get("schema"):
        raise _Unsupported(name)
    arguments = [argument["expression"] for argument in tree["arguments"]]
    if name == "date_part" and len(arguments) == 2 and arguments[0]["class"] == "CONSTANT":
        name, arguments = str(arguments[0]["literal"].get("text")).lower(), arguments[1:]
        name = {"dow": "dayofweek", "doy": "dayofyear"}.get(name, name)
        if name not in kernels.DATE_PARTS:
            raise _Unsupported(name)
    if name in kernels.DATE_PARTS and len(arguments) == 1:
        return _date_part(name, _compiled(arguments[0], schema))
    if name in ("abs", "floor", "ceil", "ceiling", "sqrt", "ln", "exp") and len(arguments) == 1:
        return _unary_math(name, _compiled(arguments[0], schema))
    if name == "nullif" and len(arguments) == 2:
        return _nullif(_compiled(arguments[0], schema), _node(arguments[1], schema))
    if name == "if" and len(arguments) == 3:
        return _case([(_compiled(arguments[0], schema), _node(arguments[1], schema))], _node(arguments[2], schema))
    if name == "-" and len(arguments) == 1:
        return _negate(_compiled(arguments[0], schema))
    if name == "||" and len(arguments) == 2:
        return _concatenation(_node(arguments[0], schema), _node(arguments[1], schema))
    if name in ("+", "-", "*", "/", "//", "%") and len(arguments) == 2:
        return _arithmetic(name, _node(arguments[0], schema), _node(arguments[1], schema))
    raise _Unsupported(name)


def _arithmetic(name: str, left: _Node, right: _Node) -> Compiled:
    if name == "/":
        return _division(left, right)
    type_ = _common(left, right, literals_only=False)
    if type_ in _INTEGERS:
        kernel = kernels.INTEGER_ARITHMETIC[name]
    elif type_ == pa.float64() and name in kernels.DOUBLE_ARITHMETIC:
        kernel = kernels.DOUBLE_ARITHMETIC[name]
    else:
        raise _Unsupported(name)
    a, b = _as(left, type_), _as(right, type_)
    return Compiled(type_, lambda columns: kernel(a.run(columns), b.run(columns)))


def _division(left: _Node, right: _Node) -> Compiled:
    """``/`` divides doubles, whatever it is given; by zero it gives infinity or NaN."""
    operands = [node for node in (left, right) if isinstance(node, Compiled)]
    if not operands or not all(_numeric(operand.type) for operand in operands):
        raise _Unsupported("/")
    a, b = _as(left, pa.float64()), _as(right, pa.float64())
    return Compiled(pa.float64(), lambda columns: pc.divide(a.run(columns), b.run(columns)))


def _concatenation(left: _Node, right: _Node) -> Compiled:
    if _common(left, right, literals_only=False) != pa.string():
        raise _Unsupported("||")
    a, b = _as(left, pa.string()), _as(right, pa.string())
    return Compiled(pa.string(), lambda columns: pc.binary_join_element_wise(a.run(columns), b.run(columns), ""))


def _negate(operand: Compiled) -> Compiled:
    if operand.type in _INTEGERS:
        return Compiled(operand.type, lambda columns: pc.negate_checked(operand.run(columns)))
    if operand.type == pa.float64():
        return Compiled(operand.type, lambda columns: pc.negate(operand.run(columns)))
    raise _Unsupported("-")


def _unary_math(name: str, operand: Compiled) -> Compiled:
    if name == "abs" and operand.type in _INTEGERS:
        return Compiled(operand.type, lambda columns: pc.abs_checked(operand.run(columns)))
    if name in ("floor", "ceil", "ceiling", "abs") and operand.type != pa.float64():
        raise _Unsupported(name)
    if not _numeric(operand.type):
        raise _Unsupported(name)
    kernel, argument = kernels.DOUBLE_MATH[name], _as(operand, pa.float64())
    return Compiled(pa.float64(), lambda columns: kernel(argument.run(columns)))


def _date_part(name: str, operand: Compiled) -> Compiled:
    if operand.type != pa.timestamp("us"):
        raise _Unsupported(name)
    kernel = kernels.DATE_PARTS[name]
    return Compiled(pa.int64(), lambda columns: kernel(kernels.proven_timestamps(operand.run(columns))))


def _comparison(tree: Tree, schema: pa.Schema) -> _Node:
    operation = _COMPARISONS.get(tree["type"])
    if operation is None:
        raise _Unsupported(tree["type"])
    return _compare(operation, _node(tree["left"], schema), _node(tree["right"], schema))


def _compare(operation: str, left: _Node, right: _Node) -> Compiled:
    return _compare_as(_common(left, right, literals_only=False), operation, left, right)


def _compare_as(type_: pa.DataType, operation: str, left: _Node, right: _Node) -> Compiled:
    if pa.types.is_nested(type_) or type_ == pa.float32():
        raise _Unsupported(str(type_))
    kernel = kernels.comparison(operation, floating=type_ == pa.float64())
    a, b = _as(left, type_), _as(right, type_)
    return Compiled(pa.bool_(), lambda columns: kernel(a.run(columns), b.run(columns)))


def _between(tree: Tree, schema: pa.Schema) -> _Node:
    value, low, high = (_node(tree[part], schema) for part in ("input", "lower", "upper"))
    type_ = _common(value, low, high, literals_only=False)
    return _and(_compare_as(type_, "greater_equal", value, low), _compare_as(type_, "less_equal", value, high))


def _and(left: Compiled, right: Compiled) -> Compiled:
    return Compiled(pa.bool_(), lambda columns: pc.and_kleene(left.run(columns), right.run(columns)))


def _or(left: Compiled, right: Compiled) -> Compiled:
    return Compiled(pa.bool_(), lambda columns: pc.or_kleene(left.run(columns), right.run(columns)))


def _conjunction(tree: Tree, schema: pa.Schema) -> _Node:
    combine = {"CONJUNCTION_AND": _and, "CONJUNCTION_OR": _or}[tree["type"]]
    children = [_truth(_node(child, schema)) for child in tree["children"]]
    combined = children[0]
    for child in children[1:]:
        combined = combine(combined, child)
    return combined


def _truth(node: _Node) -> Compiled:
    settled = _settle(node)
    if settled.type != pa.bool_():
        raise _Unsupported("not a condition")
    return settled


def _operator(tree: Tree, schema: pa.Schema) -> _Node:
    kind = tree["type"]
    children = [_node(child, schema) for child in tree["children"]]
    if kind == "OPERATOR_NOT":
        condition = _truth(children[0])
        return Compiled(pa.bool_(), lambda columns: pc.invert(condition.run(columns)))
    if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
        operand = _settle(children[0])
        kernel = pc.is_null if kind == "OPERATOR_IS_NULL" else pc.is_valid
        return Compiled(pa.bool_(), lambda columns: kernel(operand.run(columns)))
    if kind == "COMPARE_IN":
        return _in(children[0], children[1:])
    if kind == "OPERATOR_COALESCE":
        type_ = _common(*children, literals_only=True)
        parts = [_as(child, type_) for child in children]
        return Compiled(type_, lambda columns: pc.coalesce(*[part.run(columns) for part in parts]))
    raise _Unsupported(kind)


def _in(value: _Node, members: list[_Node]) -> Compiled:
    type_ = _common(value, *members, literals_only=False)
    literal_set = all(isinstance(member, _Literal) and member.kind != "NULL_LITERAL" for member in members)
    if literal_set and (type_ in _INTEGERS or type_ == pa.string()):
        operand = _as(value, type_)
        wanted = pa.array([_literal_value(member, type_) for member in members], type_)  # type: ignore[arg-type]
        return Compiled(pa.bool_(), lambda columns: kernels.is_in(operand.run(columns), wanted))
    combined = _compare_as(type_, "equal", value, members[0])
    for member in members[1:]:
        combined = _or(combined, _compare_as(type_, "equal", value, member))
    return combined


def _nullif(value: Compiled, other: _Node) -> Compiled:
    same = _compare("equal", value, other)
    nothing = pa.scalar(None, value.type)

    def run(columns: Columns) -> Value:
        return pc.if_else(pc.coalesce(same.run(columns), kernels.FALSE), nothing, value.run(columns))

    return Compiled(value.type, run)


def _case_expression(tree: Tree, schema: pa.Schema) -> _Node:
    checks = [(_compiled(c["when_expr"], schema), _node(c["then_expr"], schema)) for c in tree["case_checks"]]
    return _case(checks, _node(tree["else_expr"], schema))


def _case(checks: list[tuple[Compiled, _Node]], otherwise: _Node) -> Compiled:
    type_ = _common(*(then for _, then in checks), otherwise, literals_only=True)
    branches = [(_truth(when), _as(then, type_)) for when, then in checks]
    last = _as(otherwise, type_)

    def run(columns: Columns) -> Value:
        result = last.run(columns)
        for when, then in reversed(branches):
            result = pc.if_else(pc.coalesce(when.run(columns), kernels.FALSE), then.run(columns), result)
        return result

    return Compiled(type_, run)


def _cast(tree: Tree, schema: pa.Schema) -> _Node:
    kind = tree["type_expr"]
    target = _CASTS.get(str(kind.get("type_name", "")).upper())
    if target is None or tree.get("try_cast") or kind.get("children"):
        raise _Unsupported("CAST")
    node = _node(tree["child"], schema)
    if isinstance(node, _Literal) and node.kind not in ("INTEGER", "NULL_LITERAL"):
        raise _Unsupported("CAST of a literal")
    return _as(node, target, narrowing=True)


_HANDLERS: dict[str, Callable[[Tree, pa.Schema], _Node]] = {
    "COLUMN_REF": _column,
    "CONSTANT": _constant,
    "FUNCTION": _function,
    "COMPARISON": _comparison,
    "BETWEEN": _between,
    "CONJUNCTION": _conjunction,
    "OPERATOR": _operator,
    "CASE": _case_expression,
    "CAST": _cast,
}


# --- types, as DuckDB's binder settles them -------------------------------------------------------------------------


def _numeric(type_: pa.DataType) -> bool:
    return type_ in _INTEGERS or type_ == pa.float64() or pa.types.is_decimal128(type_)


def _common(*nodes: _Node, literals_only: bool) -> pa.DataType:
    """The type DuckDB casts ``nodes`` to; ``literals_only`` says whether literals alone may settle it."""
    types = {node.type for node in nodes if isinstance(node, Compiled)}
    literals = [node for node in nodes if isinstance(node, _Literal) and node.kind != "NULL_LITERAL"]
    if not types:
        if not literals_only or not literals:
            raise _Unsupported("literals only")
        types = {_settle(literal).type for literal in literals}
    if pa.float64() in types and all(_numeric(type_) for type_ in types):
        type_ = pa.float64()
    elif all(type_ in _INTEGERS for type_ in types):
        type_ = max(types, key=lambda t: t.bit_width)
        if any(literal.kind == "INTEGER" and not _fits(literal, type_) for literal in literals):
            type_ = _widened(type_, literals)
    elif len(types) == 1:
        type_ = types.pop()
    else:
        raise _Unsupported("mixed types")
    for literal in literals:
        _literal_value(literal, type_)
    return type_


def _fits(literal: _Literal, type_: pa.DataType) -> bool:
    limit = 1 << (type_.bit_width - 1)
    return bool(-limit <= int(literal.text or "") < limit)


def _widened(type_: pa.DataType, literals: list[_Literal]) -> pa.DataType:
    """An INTEGER column next to a literal beyond it is BIGINT; narrower columns are left to DuckDB."""
    if type_ == pa.int32() and all(lit.kind == "INTEGER" and _fits(lit, pa.int64()) for lit in literals):
        return pa.int64()
    raise _Unsupported("literal out of range")


def _settle(node: _Node) -> Compiled:
    """A literal on its own, typed as DuckDB types it; anything else as it is."""
    if isinstance(node, Compiled):
        return node
    if node.kind == "INTEGER":
        type_ = next((t for t in (pa.int32(), pa.int64()) if _fits(node, t)), None)
    else:
        type_ = {"STRING": pa.string(), "BOOLEAN": pa.bool_()}.get(node.kind)
    if type_ is None:
        raise _Unsupported("literal")
    return _as(node, type_)


def _as(node: _Node, type_: pa.DataType, *, narrowing: bool = False) -> Compiled:
    """``node`` cast to ``type_`` the way DuckDB casts."""
    if isinstance(node, _Literal):
        value = pa.scalar(_literal_value(node, type_), type_)
        return Compiled(type_, lambda _: value)
    if node.type == type_:
        return node
    kernel = kernels.cast(node.type, type_, narrowing=narrowing)
    if kernel is None:
        raise _Unsupported(f"cast of {node.type} to {type_}")
    return Compiled(type_, lambda columns: kernel(node.run(columns)))


def _literal_value(literal: _Literal, type_: pa.DataType) -> Any:
    text = literal.text or ""
    if literal.kind == "NULL_LITERAL":
        return None
    if literal.kind == "INTEGER" and type_ in _INTEGERS and _fits(literal, type_):
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
    raise _Unsupported("literal")
