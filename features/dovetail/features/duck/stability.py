"""Stability names the calls that rows alone do not determine: clocks, chance, settings of a session.

A function has an overload per list of argument types, and DuckDB's catalogue says of each how stable it is. Names with
no stable overload are refused wherever they stand in a text; of the others, like ``+``, it is the bound overload that
counts, which only a bound plan tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import duckdb

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.trees import nodes

__all__ = ["unstable_calls", "unstable_functions", "why_unstable"]

#: Overloads and functions that read the clock, whatever the catalogue says: ``age(t)`` is ``age(current_date, t)``,
#: and only from DuckDB 2.0.1 on does it know the others.
_CLOCK_OVERLOADS = frozenset({("age", ("TIMESTAMP",)), ("age", ("TIMESTAMP WITH TIME ZONE",))})
_CLOCKS = frozenset({"current_localtime", "current_localtimestamp"})
#: Clocks that are no functions to the parser, but words.
_CLOCK_WORDS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})


@cache
def unstable_functions() -> frozenset[str]:
    """Functions of which no overload is determined by its arguments, and macros that mention one of them.

    A macro stands here by its name, for DuckDB may put a constant for what it calls when it binds it.
    """
    functions = _CLOCKS | {name for name, stable, _ in _catalogue("overloads") if not stable}
    mentioned = (functions | _CLOCK_WORDS) - {"error"}  # which gives no value at all
    macros = {name for name, text in _catalogue("macros") if mentioned & set(re.findall(r"\w+", text.lower()))}
    return functions | macros


@cache
def _unstable_overloads() -> frozenset[tuple[str, tuple[str, ...]]]:
    return _CLOCK_OVERLOADS | {
        (name, tuple(types)) for name, _, unstable in _catalogue("overloads") for types in unstable
    }


#: What is asked of the catalogue: per function with an unstable overload, how many of its overloads are stable and the
#: types of those that are not; and the text of every macro.
_QUESTIONS: Mapping[str, str] = {
    "overloads": """
        SELECT function_name, count(*) FILTER (stability = 'CONSISTENT'),
               list(parameter_types) FILTER (stability <> 'CONSISTENT')
        FROM duckdb_functions() GROUP BY function_name HAVING bool_or(stability <> 'CONSISTENT')""",
    "macros": "SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro'",
}


@cache
def _catalogue(question: str) -> Sequence[tuple[Any, ...]]:
    return shared_cursor().execute(_QUESTIONS[question]).fetchall()


def unstable_calls(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """The calls in a query that binds whose overload is not determined by its arguments, as ``name(TYPE, …)``.

    The query reads tables of the connection, not Arrow tables registered with it, of which
    DuckDB writes no plan.

    Raises:
        NotImplementedError: DuckDB cannot write the query's plan; ``str()`` is its reason.
    """
    text = connection.execute("SELECT json_serialize_plan(?, skip_null := true, optimize := false)", [sql]).fetchall()[
        0
    ][0]
    plan = json.loads(text)
    if plan["error"]:
        raise NotImplementedError(plan["error_message"].split("\n", 1)[0])
    never, overloads = unstable_functions(), _unstable_overloads()
    return [
        f"{name}({', '.join(types)})"
        for name, types in _bound_calls(plan["plans"])
        if name in never or (name, types) in overloads
    ]


def why_unstable(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Why a query that binds is refused, in the form of DuckDB's errors; None where rows alone decide what it gives."""
    try:
        unstable = unstable_calls(connection, sql)
    except NotImplementedError as error:
        return f"DuckDB does not say which functions this calls: {error}"
    if not unstable:
        return None
    return (
        f"{unstable[0]} is not determined by its arguments\n"
        "use the row's own columns, and TIMESTAMP, which is UTC, instead of a time with zone"
    )


def _bound_calls(plan: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in nodes(plan):
        if "qname" in node:
            yield node["qname"]["path"][-1], tuple(_type_name(type_) for type_ in node.get("arguments", ()))


def _type_name(type_: Mapping[str, Any]) -> str:
    """A type as the catalogue writes it, as far as overloads differ in it: members of structs are left out."""
    name = str(type_["id"])
    return f"{_type_name(type_['type_info']['child_type'])}[]" if name == "LIST" else name
