"""DuckDB's reading of a text that is neither bound nor run: its syntax tree, the functions it calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import duckdb

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.trees import nodes

__all__ = ["BindError", "functions_called", "query_tree", "syntax_tree"]


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
        raise BindError(f"{parsed['error_type'].capitalize()} Error: {parsed['error_message']}")
    return parsed["statements"][0]["node"]


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
