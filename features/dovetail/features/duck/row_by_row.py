"""Finds what of an expression is not row by row: what makes one row of several, or several rows or columns of one.

DuckDB says what that is, not a list kept here: its syntax tree shows windows, subqueries and stars, and its catalogue
of functions says which names are aggregates and which make rows, macros by what they are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.parsing import BindError, functions_called, syntax_tree
from dovetail.features.duck.trees import nodes

__all__ = ["Kind", "NotRowByRow", "aggregates_called", "not_row_by_row"]

Kind = Literal["aggregate", "window", "subquery", "rows", "columns"]

_CLASSES: Mapping[str, tuple[Kind, str]] = {
    "WINDOW": ("window", "OVER"),
    "SUBQUERY": ("subquery", "a subquery"),
    "STAR": ("columns", "*"),
    "POSITIONAL_REFERENCE": ("columns", "#n"),
}
#: The parser's other name of ``unnest``, which is in no catalogue.
_UNLISTED: Mapping[str, Kind] = {"unlist": "rows"}


class NotRowByRow(NamedTuple):
    """A call that is not row by row, and its name in the text."""

    kind: Kind
    name: str


def not_row_by_row(expression: str) -> NotRowByRow | None:
    """The outermost part of ``expression`` that is not row by row; None when all of it is.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    for node in nodes(syntax_tree(expression)):
        if node.get("class") in _CLASSES:
            kind, name = _CLASSES[node["class"]]
            return NotRowByRow(kind, node.get("function_name") or name)
        if node.get("class") == "OPERATOR" and node.get("type") == "GROUPING_FUNCTION":
            return NotRowByRow("aggregate", "grouping")
        called = str(node.get("function_name", "")).lower()
        if node.get("class") == "FUNCTION" and (found := _kind_of(called)) is not None:
            return NotRowByRow(found, called)
    return None


def aggregates_called(sql: str) -> frozenset[str]:
    """Lower-case names of the aggregates, and of macros made of some, that a query calls at any depth.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    return frozenset(name for name in functions_called(sql) if _kind_of(name) == "aggregate")


class _Catalogue(NamedTuple):
    """The functions that are no plain scalar ones, by lower-case name: their kind, or the definitions of a macro."""

    kinds: Mapping[str, Kind]
    macros: Mapping[str, Sequence[str]]


@cache
def _catalogue() -> _Catalogue:
    """DuckDB's; Dovetail's macros are in it, too."""
    rows = shared_cursor().execute(
        "SELECT lower(function_name), list(DISTINCT function_type), list(DISTINCT macro_definition) "
        "FILTER (WHERE function_type = 'macro') FROM duckdb_functions() GROUP BY ALL"
    )
    kinds: dict[str, Kind] = dict(_UNLISTED)
    macros: dict[str, Sequence[str]] = {}
    for name, types, definitions in rows.fetchall():
        if "scalar" in types:
            continue  # like range, which as a table function stands in FROM only
        if "aggregate" in types:
            kinds[name] = "aggregate"
        elif "window" in types:
            kinds[name] = "window"
        elif "macro" in types:
            macros[name] = definitions or []
        else:
            kinds[name] = "rows"
    return _Catalogue(kinds, macros)


@cache
def _kind_of(function: str) -> Kind | None:
    """The kind of a function that is not row by row; a macro's is that of what it is made of, macros included."""
    catalogue = _catalogue()
    if function in catalogue.kinds:
        return catalogue.kinds[function]
    found = (_kind_of_macro(text) for text in catalogue.macros.get(function, ()))
    return next((kind for kind in found if kind is not None), None)


def _kind_of_macro(definition: str) -> Kind | None:
    try:
        parts = list(nodes(syntax_tree(definition)))
    except BindError:  # a definition that DuckDB prints and does not read is taken for what it is not known to break
        return None
    if any(part.get("class") == "SUBQUERY" for part in parts):
        return "subquery"
    called = (_kind_of(str(part["function_name"]).lower()) for part in parts if "function_name" in part)
    return next((kind for kind in called if kind is not None), None)
