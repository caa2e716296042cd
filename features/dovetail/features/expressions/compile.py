"""The compiled lane: DuckDB expressions as Arrow kernels.

A DuckDB call costs milliseconds before it touches a row; a ranking request has a few hundred rows and a few
milliseconds. So expressions made of a *proven* set of operations are compiled to Arrow compute calls, some microseconds
each. Proven means: property tests compare them with DuckDB bit for bit, over NULL, NaN, infinities and extremes.

The input is DuckDB's own syntax tree (``duck/binding.py`` gets it), so nothing hangs on a second parser reading
precedence, ``log`` or ``//`` the way DuckDB does. Whatever is not in the set compiles to None and stays in DuckDB.

A kernel keeps to one contract: **it returns DuckDB's value, or it raises** :class:`NotProven`. It evaluates every
branch of a CASE over every row, so it may raise where DuckDB would not; the caller then asks DuckDB
(``evaluate.py``), whose answer, value or error, is the meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.duck.trees import without_places
from dovetail.features.expressions import arrow_kernels as kernels
from dovetail.features.expressions.arrow_kernels import NotProven, Value
from dovetail.features.expressions.operands import (
    INTEGERS,
    Compiled,
    Literal,
    Node,
    Rows,
    Unsupported,
    as_type,
    common_type,
    literal_value,
    numeric,
    remembering,
    settle,
)

__all__ = ["Compiled", "NotProven", "Rows", "Scope", "Tree", "compile_expression"]

#: A node of DuckDB's ``json_serialize_sql``.
Tree = Mapping[str, Any]

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


class Scope:
    """The columns that expressions may read, and every part compiled so far: what two of them share is one object."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.parts: dict[str, Node] = {}


def compile_expression(tree: Tree, schema: pa.Schema | Scope) -> Compiled | None:
    """``tree`` over columns of ``schema`` as kernels, or None when it is not made of proven operations only.

    The result's type is DuckDB's for every tree that compiles; ``catalogue.py`` checks that against the bound type.
    Expressions compiled in one :class:`Scope` and evaluated over one ``Rows`` have their common parts evaluated once.
    """
    try:
        scope = schema if isinstance(schema, Scope) else Scope(schema)
        return settle(_column(tree, scope) if tree["class"] == "COLUMN_REF" else _node(tree, scope))
    except Unsupported:
        return None


def _node(tree: Tree, scope: Scope) -> Node:
    handler = _HANDLERS.get(tree["class"])
    if handler is None:
        raise Unsupported(tree["class"])
    meaning = json.dumps(without_places(tree), sort_keys=True)
    if meaning not in scope.parts:
        scope.parts[meaning] = remembering(handler(tree, scope))
    return scope.parts[meaning]


def _compiled(tree: Tree, scope: Scope) -> Compiled:
    node = _node(tree, scope)
    if isinstance(node, Literal):
        raise Unsupported("a literal where a column is expected")
    return node


def _column(tree: Tree, scope: Scope) -> Node:
    names = tree["column_names"]
    if len(names) != 1 or names[0] not in scope.schema.names:
        raise Unsupported("column")
    name = str(names[0])
    return Compiled(scope.schema.field(name).type, lambda columns: columns[name])


def _operand(tree: Tree, scope: Scope) -> Node:
    """A column that something is done with: nothing is proven of lists, maps and structs."""
    node = _column(tree, scope)
    if isinstance(node, Compiled) and pa.types.is_nested(node.type):
        raise Unsupported(str(node.type))
    return node


def _constant(tree: Tree, _: Scope) -> Node:
    literal = tree["literal"]
    return Literal(literal["kind"], literal.get("text"))


def _function(tree: Tree, scope: Scope) -> Node:
    name = tree["function_name"].lower()
    if tree.get("distinct") or tree.get("filter") or tree.get("schema"):
        raise Unsupported(name)
    arguments = [argument["expression"] for argument in tree["arguments"]]
    if name == "date_part" and len(arguments) == 2 and arguments[0]["class"] == "CONSTANT":
        name, arguments = str(arguments[0]["literal"].get("text")).lower(), arguments[1:]
        name = {"dow": "dayofweek", "doy": "dayofyear"}.get(name, name)
        if name not in kernels.DATE_PARTS:
            raise Unsupported(name)
    if name in kernels.DATE_PARTS and len(arguments) == 1:
        return _date_part(name, _compiled(arguments[0], scope))
    if name in ("abs", "floor", "ceil", "ceiling", "sqrt", "ln", "exp") and len(arguments) == 1:
        return _unary_math(name, _compiled(arguments[0], scope))
    if name == "nullif" and len(arguments) == 2:
        return _nullif(_compiled(arguments[0], scope), _node(arguments[1], scope))
    if name == "if" and len(arguments) == 3:
        return _case([(_compiled(arguments[0], scope), _node(arguments[1], scope))], _node(arguments[2], scope))
    if name == "-" and len(arguments) == 1:
        return _negate(_compiled(arguments[0], scope))
    if name == "||" and len(arguments) == 2:
        return _concatenation(_node(arguments[0], scope), _node(arguments[1], scope))
    if name in ("+", "-", "*", "/", "//", "%") and len(arguments) == 2:
        return _arithmetic(name, _node(arguments[0], scope), _node(arguments[1], scope))
    raise Unsupported(name)


def _arithmetic(name: str, left: Node, right: Node) -> Compiled:
    if name == "/":
        return _division(left, right)
    type_ = common_type(left, right, literals_only=False)
    if type_ in INTEGERS:
        kernel = kernels.INTEGER_ARITHMETIC[name]
    elif type_ == pa.float64() and name in kernels.DOUBLE_ARITHMETIC:
        kernel = kernels.DOUBLE_ARITHMETIC[name]
    else:
        raise Unsupported(name)
    a, b = as_type(left, type_), as_type(right, type_)
    return Compiled(type_, lambda columns: kernel(a.run(columns), b.run(columns)))


def _division(left: Node, right: Node) -> Compiled:
    """``/`` divides doubles, whatever it is given; by zero it gives infinity or NaN."""
    operands = [node for node in (left, right) if isinstance(node, Compiled)]
    if not operands or not all(numeric(operand.type) for operand in operands):
        raise Unsupported("/")
    a, b = as_type(left, pa.float64()), as_type(right, pa.float64())
    return Compiled(pa.float64(), lambda columns: pc.divide(a.run(columns), b.run(columns)))


def _concatenation(left: Node, right: Node) -> Compiled:
    if common_type(left, right, literals_only=False) != pa.string():
        raise Unsupported("||")
    a, b = as_type(left, pa.string()), as_type(right, pa.string())
    return Compiled(pa.string(), lambda columns: pc.binary_join_element_wise(a.run(columns), b.run(columns), ""))


def _negate(operand: Compiled) -> Compiled:
    if operand.type in INTEGERS:
        return Compiled(operand.type, lambda columns: pc.negate_checked(operand.run(columns)))
    if operand.type == pa.float64():
        return Compiled(operand.type, lambda columns: pc.negate(operand.run(columns)))
    raise Unsupported("-")


def _unary_math(name: str, operand: Compiled) -> Compiled:
    if name == "abs" and operand.type in INTEGERS:
        return Compiled(operand.type, lambda columns: pc.abs_checked(operand.run(columns)))
    if name in ("floor", "ceil", "ceiling", "abs") and operand.type != pa.float64():
        raise Unsupported(name)
    if not numeric(operand.type):
        raise Unsupported(name)
    kernel, argument = kernels.DOUBLE_MATH[name], as_type(operand, pa.float64())
    return Compiled(pa.float64(), lambda columns: kernel(argument.run(columns)))


def _date_part(name: str, operand: Compiled) -> Compiled:
    if operand.type != pa.timestamp("us"):
        raise Unsupported(name)
    kernel = kernels.DATE_PARTS[name]
    return Compiled(pa.int64(), lambda columns: kernel(kernels.proven_timestamps(operand.run(columns))))


def _comparison(tree: Tree, scope: Scope) -> Node:
    operation = _COMPARISONS.get(tree["type"])
    if operation is None:
        raise Unsupported(tree["type"])
    return _compare(operation, _node(tree["left"], scope), _node(tree["right"], scope))


def _compare(operation: str, left: Node, right: Node) -> Compiled:
    return _compare_as(common_type(left, right, literals_only=False), operation, left, right)


def _compare_as(type_: pa.DataType, operation: str, left: Node, right: Node) -> Compiled:
    if pa.types.is_nested(type_) or type_ == pa.float32():
        raise Unsupported(str(type_))
    kernel = kernels.comparison(operation, floating=type_ == pa.float64())
    a, b = as_type(left, type_), as_type(right, type_)
    return Compiled(pa.bool_(), lambda columns: kernel(a.run(columns), b.run(columns)))


def _between(tree: Tree, scope: Scope) -> Node:
    value, low, high = (_node(tree[part], scope) for part in ("input", "lower", "upper"))
    type_ = common_type(value, low, high, literals_only=False)
    return _and(_compare_as(type_, "greater_equal", value, low), _compare_as(type_, "less_equal", value, high))


def _and(left: Compiled, right: Compiled) -> Compiled:
    return Compiled(pa.bool_(), lambda columns: pc.and_kleene(left.run(columns), right.run(columns)))


def _or(left: Compiled, right: Compiled) -> Compiled:
    return Compiled(pa.bool_(), lambda columns: pc.or_kleene(left.run(columns), right.run(columns)))


def _conjunction(tree: Tree, scope: Scope) -> Node:
    combine = {"CONJUNCTION_AND": _and, "CONJUNCTION_OR": _or}[tree["type"]]
    children = [_truth(_node(child, scope)) for child in tree["children"]]
    combined = children[0]
    for child in children[1:]:
        combined = combine(combined, child)
    return combined


def _truth(node: Node) -> Compiled:
    settled = settle(node)
    if settled.type != pa.bool_():
        raise Unsupported("not a condition")
    return settled


def _operator(tree: Tree, scope: Scope) -> Node:
    kind = tree["type"]
    children = [_node(child, scope) for child in tree["children"]]
    if kind == "OPERATOR_NOT":
        condition = _truth(children[0])
        return Compiled(pa.bool_(), lambda columns: pc.invert(condition.run(columns)))
    if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
        operand = settle(children[0])
        kernel = pc.is_null if kind == "OPERATOR_IS_NULL" else pc.is_valid
        return Compiled(pa.bool_(), lambda columns: kernel(operand.run(columns)))
    if kind == "COMPARE_IN":
        return _in(children[0], children[1:])
    if kind == "OPERATOR_COALESCE":
        type_ = common_type(*children, literals_only=True)
        parts = [as_type(child, type_) for child in children]
        return Compiled(type_, lambda columns: pc.coalesce(*[part.run(columns) for part in parts]))
    raise Unsupported(kind)


def _in(value: Node, members: list[Node]) -> Compiled:
    type_ = common_type(value, *members, literals_only=False)
    literal_set = all(isinstance(member, Literal) and member.kind != "NULL_LITERAL" for member in members)
    if literal_set and (type_ in INTEGERS or type_ == pa.string()):
        operand = as_type(value, type_)
        wanted = pa.array([literal_value(member, type_) for member in members], type_)  # type: ignore[arg-type]
        return Compiled(pa.bool_(), lambda columns: kernels.is_in(operand.run(columns), wanted))
    combined = _compare_as(type_, "equal", value, members[0])
    for member in members[1:]:
        combined = _or(combined, _compare_as(type_, "equal", value, member))
    return combined


def _nullif(value: Compiled, other: Node) -> Compiled:
    same = _compare("equal", value, other)
    nothing = pa.scalar(None, value.type)

    def run(columns: Rows) -> Value:
        return pc.if_else(kernels.truth(same.run(columns)), nothing, value.run(columns))

    return Compiled(value.type, run)


def _case_expression(tree: Tree, scope: Scope) -> Node:
    checks = [(_compiled(c["when_expr"], scope), _node(c["then_expr"], scope)) for c in tree["case_checks"]]
    return _case(checks, _node(tree["else_expr"], scope))


def _case(checks: list[tuple[Compiled, Node]], otherwise: Node) -> Compiled:
    type_ = common_type(*(then for _, then in checks), otherwise, literals_only=True)
    branches = [(_truth(when), as_type(then, type_)) for when, then in checks]
    last = as_type(otherwise, type_)

    def run(columns: Rows) -> Value:
        result = last.run(columns)
        for when, then in reversed(branches):
            result = pc.if_else(kernels.truth(when.run(columns)), then.run(columns), result)
        return result

    return Compiled(type_, run)


def _cast(tree: Tree, scope: Scope) -> Node:
    kind = tree["type_expr"]
    target = _CASTS.get(str(kind.get("type_name", "")).upper())
    if target is None or tree.get("try_cast") or kind.get("children"):
        raise Unsupported("CAST")
    node = _node(tree["child"], scope)
    if isinstance(node, Literal) and node.kind not in ("INTEGER", "NULL_LITERAL"):
        raise Unsupported("CAST of a literal")
    return as_type(node, target, narrowing=True)


_HANDLERS: dict[str, Callable[[Tree, Scope], Node]] = {
    "COLUMN_REF": _operand,
    "CONSTANT": _constant,
    "FUNCTION": _function,
    "COMPARISON": _comparison,
    "BETWEEN": _between,
    "CONJUNCTION": _conjunction,
    "OPERATOR": _operator,
    "CASE": _case_expression,
    "CAST": _cast,
}
