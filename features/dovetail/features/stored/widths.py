"""Columns whose width a definition does not notice: INTEGER declared BIGINT gives the same values.

An expression passes a number on (``x + 1``, ``CASE``, ``coalesce``), or makes something of it that has a type of its
own (``x > 3``, ``CAST(x AS VARCHAR)``, ``x / 2``). Through either, a value is the same however wide its column is, as
long as an integer stays one and a DECIMAL keeps its scale. Everything else (``hash(x)``, ``typeof(x)``, ``[x]``) may
depend on the width, and what is not known not to counts as such. A wider column can only give a value where there was
none: an overflow, whose event was a dead letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from dovetail.features.duck.parsing import syntax_tree
from dovetail.features.duck.trees import nodes

__all__ = ["Passage", "columns_named", "kind_of", "passage", "widens"]

_PASSED_ON = frozenset({"+", "-", "*", "abs", "greatest", "least", "nullif", "if", "ifnull"})
_OF_OWN_TYPE = frozenset({"/"})
_CAST_TO = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DECIMAL", "FLOAT", "DOUBLE", "VARCHAR"}
)
#: The digits of DuckDB's widest DECIMAL, and of the widest that a column may be declared.
_MAX_DIGITS, _COLUMN_DIGITS = 38, 18
_CONDITIONS = frozenset({"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_NOT", "COMPARE_IN", "COMPARE_NOT_IN"})
#: A number in the text of an Arrow type; what a colon follows is a member's name.
_NUMBER = re.compile(r"\bint(?P<bits>8|16|32|64)\b(?!:)|\bdecimal128\((?P<precision>\d+), (?P<scale>\d+)\)")


class Passage:
    """How the value of an expression depends on the widths of the columns it reads.

    ``carried``: columns whose width may show in the expression's type, and not in its value. ``noticed``: columns whose
    width may show in its value.
    """

    def __init__(self, carried: Iterable[str] = (), noticed: Iterable[str] = ()) -> None:
        self.carried = frozenset(carried)
        self.noticed = frozenset(noticed)

    def __or__(self, other: Passage) -> Passage:
        return Passage(self.carried | other.carried, self.noticed | other.noticed)

    @property
    def typed(self) -> Passage:
        """The passage of what has a type of its own."""
        return Passage((), self.noticed)


def passage(sql: str | None, columns: Collection[str]) -> Passage:
    """The passage of an expression over ``columns``; of None, which reads nothing, an empty one."""
    if sql is None:
        return Passage()
    return _passage(syntax_tree(sql), {name.lower(): name for name in columns})


def columns_named(sql: str | None, columns: Collection[str]) -> frozenset[str]:
    """Those of ``columns`` that the expression names."""
    return frozenset() if sql is None else _named(syntax_tree(sql), {name.lower(): name for name in columns})


def kind_of(type_: pa.DataType) -> str:
    """The type without its width: equal for types of which one is a wider form of the other, at any level."""
    return _NUMBER.sub(_kind, str(type_))


def widens(before: str, after: str) -> bool:
    """Whether Arrow type ``after``, as text, holds every value of ``before`` as the same number, or is the same."""
    if _NUMBER.sub(_kind, before) != _NUMBER.sub(_kind, after):
        return False
    pairs = zip(_NUMBER.finditer(before), _NUMBER.finditer(after), strict=True)
    return all(_width(old) <= _width(new) for old, new in pairs)


def _kind(number: re.Match[str]) -> str:
    return "integer" if number["bits"] else f"decimal of scale {number['scale']}"


def _width(number: re.Match[str]) -> int:
    return int(number["bits"] or number["precision"])


def _passage(node: Mapping[str, Any], columns: Mapping[str, str]) -> Passage:
    class_, type_ = node.get("class"), node.get("type")
    if class_ == "CONSTANT":
        return Passage()
    if class_ == "COLUMN_REF" and len(node["column_names"]) == 1:
        return Passage(_named(node, columns))
    if class_ == "FUNCTION" and not node.get("filter") and not node.get("distinct"):
        name = str(node["function_name"]).lower()
        given = [argument["expression"] for argument in node["arguments"]]
        parts = _parted(given, columns) if name == "*" else _all(given, columns)
        if name in _PASSED_ON:
            return parts
        if name in _OF_OWN_TYPE:
            return parts.typed
    if class_ == "CASE":
        conditions = _all((check["when_expr"] for check in node["case_checks"]), columns)
        results = [check["then_expr"] for check in node["case_checks"]]
        return conditions.typed | _all([*results, node["else_expr"]], columns)
    if type_ == "OPERATOR_COALESCE":
        return _all(node["children"], columns)
    if type_ in _CONDITIONS or class_ == "CONJUNCTION":
        return _all(node["children"], columns).typed
    if class_ == "COMPARISON":
        return _all((node["left"], node["right"]), columns).typed
    if class_ == "BETWEEN":
        return _all((node["input"], node["lower"], node["upper"]), columns).typed
    if class_ == "CAST" and node["type_expr"].get("type_name", "").upper() in _CAST_TO:
        return _all((node["child"],), columns).typed
    return Passage((), _named(node, columns))


def _all(parts: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Passage:
    """The passage of parts that DuckDB brings to one type.

    That of two DECIMALs has the digits before the point of the one and those after it of the other, and loses some of
    these when they are more than 38 together. A column has 18 digits at most.
    """
    given = list(parts)
    if len(given) > 1 and max(_decimals(part) for part in given) > _MAX_DIGITS - _COLUMN_DIGITS:
        return Passage((), frozenset().union(*(_named(part, columns) for part in given)))
    return _parted(given, columns)


def _parted(parts: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Passage:
    """The passage of parts each of which has its own type."""
    whole = Passage()
    for part in parts:
        whole |= _passage(part, columns)
    return whole


def _decimals(tree: Any) -> int:
    """The most digits after the point that a literal or a cast in ``tree`` has."""
    if isinstance(tree, Mapping):
        if tree.get("class") == "CONSTANT":
            return len(str(tree.get("literal", {}).get("text", "")).partition(".")[2])
        scales = tree.get("type_expr", {}).get("children", []) if tree.get("class") == "CAST" else []
        own = int(scales[1]["literal"]["text"]) if len(scales) > 1 else 0
        return max([own, *(_decimals(part) for part in tree.values())])
    return max((_decimals(part) for part in tree), default=0) if isinstance(tree, list) else 0


def _named(tree: Mapping[str, Any], columns: Mapping[str, str]) -> frozenset[str]:
    """The columns that any part of ``tree`` names: of ``a.b`` both, whichever of them is the column."""
    parts = (str(part).lower() for node in nodes(tree) for part in node.get("column_names", ()))
    return frozenset(columns[part] for part in parts if part in columns)
