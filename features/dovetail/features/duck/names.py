"""Tells the column names that DuckDB reads as columns when they stand without quotes."""

from __future__ import annotations

import re
from functools import cache

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.parsing import BindError, syntax_tree
from dovetail.features.duck.trees import without_places

__all__ = ["keywords", "reads_as_column"]

_SIMPLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What may stand around a column; a keyword may be one by itself and none before an operator, like ``left``.
_AROUND = ("{}", "{} IS NULL", "{} LIKE 'x'", "f({}, 1)", "CASE WHEN {} THEN {} END", "({} + 1) // {}", "- {}")


@cache
def keywords() -> frozenset[str]:
    """DuckDB's keywords of every category, in lower case."""
    rows = shared_cursor().execute("SELECT lower(keyword_name) FROM duckdb_keywords()").fetchall()
    return frozenset(str(name) for (name,) in rows)


@cache
def reads_as_column(name: str) -> bool:
    """Whether ``name`` without quotes is the column that it is with quotes, wherever an expression may have one."""
    if not _SIMPLE_NAME.fullmatch(name):
        return False
    if name.lower() not in keywords():
        return True
    try:
        return all(
            without_places(syntax_tree(text.format(name, name)))
            == without_places(syntax_tree(text.format(f'"{name}"', f'"{name}"')))
            for text in _AROUND
        )
    except BindError:
        return False
