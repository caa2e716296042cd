"""DuckDB's reading of a text that is neither bound nor run: its syntax tree, the functions it calls."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import duckdb

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.trees import nodes

__all__ = ["KEYWORD_BEFORE", "BindError", "functions_called", "query_tree", "syntax_tree"]


#: A hint of a :class:`BindError` that begins so names a keyword that stands where a name may be meant.
KEYWORD_BEFORE = "keyword before: "
_LAST_WORD = re.compile(r"(\w+)\s*$")


class BindError(Exception):
    """DuckDB refuses the text; ``str()`` is its own first line, ``hints`` the others. Callers add file and line."""

    def __init__(self, message: str) -> None:
        first, _, self.hints = message.partition("\n")
        super().__init__(first)


@cache
def _parser() -> tuple[duckdb.DuckDBPyConnection, threading.Lock]:
    return shared_cursor(), threading.Lock()


@lru_cache(maxsize=4_096)
def _statement(sql: str) -> Any:
    connection, lock = _parser()
    with lock:
        text = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    parsed = json.loads(text)
    if parsed["error"]:
        before = _keyword_before(sql, int(parsed.get("position") or 0))
        hint = f"\n{KEYWORD_BEFORE}{before}" if before else ""
        raise BindError(f"{parsed['error_type'].capitalize()} Error: {parsed['error_message']}{hint}")
    return parsed["statements"][0]["node"]


def _keyword_before(sql: str, position: int) -> str:
    """The last word of ``sql`` before the byte at ``position``, where it cannot be a column without quotes; or empty.

    Words of the language's own grammar, like SELECT, are none: nobody means a name by them.
    """
    match = _LAST_WORD.search(sql.encode()[:position].decode(errors="replace"))
    return match[1] if match and match[1].lower() in _words_of_functions_and_types() else ""


@cache
def _words_of_functions_and_types() -> frozenset[str]:
    named = (
        "SELECT lower(keyword_name) FROM duckdb_keywords() WHERE keyword_category IN ('type_function', 'column_name')"
    )
    connection, lock = _parser()
    with lock:
        return frozenset(str(word) for (word,) in connection.execute(named).fetchall()) - {"by"}


def syntax_tree(expression: str) -> Mapping[str, Any]:
    """DuckDB's syntax tree of one expression, as ``json_serialize_sql`` gives it.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    tree: Mapping[str, Any] = _statement(f"SELECT {expression}")["select_list"][0]
    return tree


def query_tree(sql: str) -> Mapping[str, Any]:
    """DuckDB's syntax tree of a query, as ``json_serialize_sql`` gives it.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    tree: Mapping[str, Any] = _statement(sql.rstrip().rstrip(";"))
    return tree


def functions_called(sql: str) -> frozenset[str]:
    """Lower-case names of all functions, operators and aggregates a query calls, at any depth.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    return frozenset(node["function_name"].lower() for node in nodes(_statement(sql)) if "function_name" in node)
