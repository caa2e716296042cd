"""An independent witness: a definition's own text in plain DuckDB, for one request at a time.

What both engines get wrong alike, comparing them with each other does not show. The witness shares nothing with them
but the text and the way DuckDB is opened: DuckDB reads the text, DuckDB's tree of it is changed, and DuckDB runs it.
Of a view, ``f(x) OVER (… frame)`` at time T becomes the plain aggregate ``f(x)`` over the rows of the request's key
that the frame holds at T; all else stands as it is written. A feature set runs unchanged, over one request and the
rows that its views give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from dovetail.features.duck.macros import MACROS
from dovetail.features.plan.definitions import BatchView, FeatureSet, StreamView
from dovetail.platform.duck.hermetic import hermetic_connection
from dovetail.platform.rows.positions import own_position_columns

__all__ = ["Witness", "Witnessed", "alike"]

#: Of rows at one time these decide, in a stream that is read as it comes.
_POSITION = ("_partition", "_offset", "_row")
_RELATIVE = 1e-9
_SHOWN = 5

_Tree = dict[str, Any]


@dataclass(slots=True)
class Witnessed:
    """The witness's findings: values it computed, those that differ (with examples), and those it could not compute."""

    requests: int = 0
    compared: int = 0
    mismatched: int = 0
    unwitnessed: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, request_id: str, served: Mapping[str, Any], witnessed: Mapping[str, Any]) -> None:
        """Count one request: its features as they were served, and those that the witness computed."""
        self.requests += 1
        self.unwitnessed += len(served.keys() - witnessed.keys())
        for name in (name for name in served if name in witnessed):
            self.compared += 1
            if alike(served[name], witnessed[name]):
                continue
            self.mismatched += 1
            if len(self.examples) < _SHOWN:
                values = f"served {served[name]!r}, witnessed {witnessed[name]!r}"
                self.examples.append(f"{name} of request {request_id}: {values}")

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        names = ("requests", "compared", "mismatched", "unwitnessed", "examples")
        return {name: getattr(self, name) for name in names}


class _Unwitnessed(Exception):
    """The witness has no way to this view's values."""


class Witness:
    """Computes the features of single requests.

    ``events_of(stream, until, keys)`` gives a stream's rows, with their positions, up to a time (µs), where columns
    have the values of ``keys``; those may be all.
    """

    def __init__(
        self,
        features: FeatureSet,
        stream_views: Mapping[str, StreamView],
        batch_views: Mapping[str, BatchView],
        events_of: Callable[[str, int, Mapping[str, pa.Scalar]], pa.Table],
        *,
        errors_are_null: bool = False,
    ) -> None:
        """``errors_are_null``: where a text raises, NULL is served, and the witness says nothing."""
        self._features, self._events_of, self._errors_are_null = features, events_of, errors_are_null
        self._stream, self._batch = stream_views, batch_views
        self._connection = hermetic_connection(threads=1, prepared=MACROS)

    def values(self, request: pa.Table, seen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The features of ``request``, one flat row, by name; without those that cannot be computed.

        ``seen`` is, by view, the first offset of each partition that the request had not seen.
        """
        connection, missing = self._connection, set[str]()
        connection.register("_request", request)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {_quoted(self._features.over)} AS FROM _request")
        for join in self._features.joins:
            view = self._stream.get(join.view) or self._batch[join.view]
            _empty_table(connection, view)
            # Nothing joins a NULL key in the text as it stands; what is served is what an unknown key gets.
            keyless = any(request.column(column)[0].as_py() is None for column in view.entity)
            try:
                if isinstance(view, StreamView) and not keyless:
                    self._fill(connection, view, request, seen.get(view.name, ()))
                else:
                    missing.add(view.name)
            except _Unwitnessed:
                missing.add(view.name)
            except duckdb.Error:
                if not self._errors_are_null:
                    raise
                missing.add(view.name)
        found = connection.execute(self._features.sql.strip().rstrip(";"))
        names = [column[0] for column in found.description]
        row = dict(zip(names, found.fetchall()[0], strict=True))
        known = [c.name for c in self._features.columns if not missing & {owner for owner, _ in c.references}]
        return {name: row[name] for name in known}

    def _fill(
        self, connection: duckdb.DuckDBPyConnection, view: StreamView, request: pa.Table, seen: Sequence[int]
    ) -> None:
        """Put the view's row for the request into its table."""
        if len(view.reads) > 1:
            raise _Unwitnessed
        time_us = int(request.column("request_time")[0].cast(pa.timestamp("us")).value)
        stream = view.reads[0].stream
        # Where a SELECT cleans events, it may make the key.
        keys = {} if view.branches else {column: request.column(column)[0] for column in view.entity}
        events = self._events_of(stream.name, time_us, keys)
        if not events.num_columns:
            events = pa.schema([*stream.schema.arrow, *own_position_columns()]).empty_table()
        connection.register("_archived", events)
        visible = " OR ".join(f"(_partition = {p} AND _offset < {o})" for p, o in enumerate(seen)) or "false"
        name = _quoted(stream.name)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM _archived WHERE {visible}")
        connection.execute(
            f"INSERT INTO {_quoted(view.name)} {_AtRequest(connection, view, time_us, self._features.over).sql()}"
        )
        connection.execute(f"DROP TABLE {name}")


def _empty_table(connection: duckdb.DuckDBPyConnection, view: StreamView | BatchView) -> None:
    keys = [pa.field(column, type_) for column, type_ in zip(view.entity, view.entity_types, strict=True)]
    connection.register("_shape", pa.schema([*keys, *view.output_schema]).empty_table())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {_quoted(view.name)} AS FROM _shape")


class _AtRequest:
    """A view's statement as one about the request in the table ``request``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, view: StreamView, time_us: int, request: str) -> None:
        self._connection, self._view, self._request = connection, view, _quoted(request)
        self._moment = f"make_timestamp({time_us - view.strictly_before})"
        self._time = _quoted(view.stream.event_time)
        self._node = _parsed(view.sql.strip().rstrip(";"))
        self._aggregates: list[str] = []
        #: How many rows before the request each ROWS frame begins, and how many of the last are not in it.
        self._lasts: set[tuple[int, int]] = set()

    def sql(self) -> str:
        """The statement that gives the view's row: its keys, then its outputs as they are written."""
        node, view = self._node, self._view
        items = [item for item in node["select_list"] if item["class"] != "COLUMN_REF"]
        outputs = [self._text(self._without_windows(item)) for item in items]
        keys = [f"(SELECT {_quoted(column)} FROM {self._request})" for column in view.entity]
        mine = [f"{_quoted(column)} = {key}" for column, key in zip(view.entity, keys, strict=True)]
        where = [] if node["where_clause"] is None else [f"({self._text(node['where_clause'])})"]
        inner = dict(node)
        before = f"{self._time} <= {self._moment}"
        self._frame_rows(inner, " AND ".join([*where, *mine, before]))
        listed = ", ".join(f"{text} AS _w{number}" for number, text in enumerate(self._aggregates))
        made = _parsed(f"SELECT {listed} WHERE {' AND '.join([*where, *mine, before])}")
        inner["select_list"], inner["where_clause"] = made["select_list"], made["where_clause"]
        names = [*view.entity, *(item["alias"] for item in items)]
        table = [*view.entity, *view.output_schema.names]
        values = dict(zip(names, [*keys, *outputs], strict=True))
        return f"SELECT {', '.join(values[name] for name in table)} FROM ({_statement(inner)})"

    def _without_windows(self, tree: Any) -> Any:
        """``tree`` with a column in the place of each window aggregate, which is kept for the inner query."""
        if isinstance(tree, list):
            return [self._without_windows(part) for part in tree]
        if not isinstance(tree, dict):
            return tree
        if tree.get("class") == "WINDOW":
            self._aggregates.append(self._aggregate(tree))
            column: _Tree = _parsed(f"SELECT _w{len(self._aggregates) - 1}")["select_list"][0]
            return column
        return {name: self._without_windows(part) for name, part in tree.items() if name != "alias"} | {"alias": ""}

    def _aggregate(self, window: _Tree) -> str:
        """The plain aggregate over the rows that the frame holds at the request."""
        name = str(window["function_name"]).removesuffix("_value")
        given = [self._text(argument["expression"]) for argument in window["arguments"]]
        kept = [f"({self._frame(window)})"]
        if window.get("filter_expr") is not None:
            kept.append(f"({self._text(window['filter_expr'])})")
        if window.get("ignore_nulls"):
            kept.append(f"({given[0]}) IS NOT NULL")
        order = ""
        if name in ("first", "last", "list"):
            order = f" ORDER BY {self._order()}"
        if name.startswith(("arg_m", "argm", "max_by", "min_by")):
            kept.append(f"({given[1]}) IS NOT NULL")
            given[1] = f"row({given[1]}, {self._order()})"
        if name in ("nth", "lag"):
            at = given[1] if len(given) > 1 else "1"
            latest = "" if name == "nth" and not window["arg_orders"] else " DESC"
            order = ", ".join(f"{part}{latest}" for part in self._order().split(", "))
            return f"(list({given[0]} ORDER BY {order}) FILTER (WHERE {' AND '.join(kept)}))[{at}]"
        if name in ("skewness", "kurtosis", "kurtosis_pop"):
            # Of values as they are, DuckDB's sums of powers cancel: they are told from the first, which moves nothing.
            listed = f"(list({given[0]}) FILTER (WHERE ({given[0]}) IS NOT NULL AND {' AND '.join(kept)}))"
            return f"list_aggregate(list_transform({listed}, lambda _x: _x - {listed}[1]), '{name}')"
        distinct = "DISTINCT " if window.get("distinct") else ""
        return f"{name}({distinct}{', '.join(given) or '*'}{order}) FILTER (WHERE {' AND '.join(kept)})"

    def _order(self) -> str:
        """What decides between rows at one time; only rows as they came have it."""
        if self._view.branches:
            raise _Unwitnessed
        return ", ".join([self._time, *_POSITION])

    def _frame(self, window: _Tree) -> str:
        """Whether a row at or before the request is in the frame."""
        if window["start"] == "EXPR_PRECEDING_ROWS":
            first = int(self._text(window["start_expr"]))
            last = int(self._text(window["end_expr"])) if window["end"] == "EXPR_PRECEDING_ROWS" else 1
            self._lasts.add((first, last - 1))
            return f"row({self._order()}) IN (SELECT row({self._order()}) FROM _rows_{first}_{last - 1})"
        within = ["true"]
        if window["start"] == "EXPR_PRECEDING_RANGE":
            within.append(f"{self._time} >= {self._ago(window['start_expr'])}")
        if window["end"] == "EXPR_PRECEDING_RANGE":
            within.append(f"{self._time} <= {self._ago(window['end_expr'])}")
        if window["exclude_clause"] in ("GROUP", "TIES"):
            within.append(f"{self._time} <> {self._moment}")
        return " AND ".join(within)

    def _ago(self, bound: _Tree) -> str:
        """The time that a bound of a frame, like ``INTERVAL 1 DAY PRECEDING``, means at the request."""
        alias = _quoted(self._node["from_table"].get("alias") or self._view.stream.name)
        moment = f"SELECT {self._moment} AS {self._time}"
        return f"(SELECT {self._time} - ({self._text(bound)}) FROM ({moment}) AS {alias})"

    def _frame_rows(self, inner: _Tree, where: str) -> None:
        """The tables of the last n rows, for ROWS frames."""
        for first, skipped in sorted(self._lasts):
            rows = dict(inner)
            order = ", ".join(f"{part} DESC" for part in self._order().split(", "))
            some = f"LIMIT {first - skipped} OFFSET {skipped}"
            made = _parsed(f"SELECT {self._order()} WHERE {where} ORDER BY {order} {some}")
            for part in ("select_list", "where_clause", "modifiers"):
                rows[part] = made[part]
            name = f"_rows_{first}_{skipped}"
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {_statement(rows)}")

    def _text(self, expression: _Tree) -> str:
        node = _parsed("SELECT 1")
        node["select_list"] = [{**expression, "alias": ""}]
        return _statement(node).removeprefix("SELECT ")


def _parsed(sql: str) -> _Tree:
    """DuckDB's tree of a statement; the caller's own, to be changed."""
    parsed = json.loads(_read(sql))
    if parsed["error"]:
        raise duckdb.ParserException(f"{parsed['error_message']}: {sql}")
    node: _Tree = parsed["statements"][0]["node"]
    return node


def _statement(node: _Tree) -> str:
    """The text of a tree."""
    return _written(json.dumps({"error": False, "statements": [{"node": node, "named_param_map": []}]}))


# Of request after request most of a definition's text is the same, and DuckDB takes half a millisecond for each part.


@lru_cache(maxsize=4_096)
def _read(sql: str) -> str:
    connection = hermetic_connection(threads=1, prepared=MACROS)
    return str(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])


@lru_cache(maxsize=4_096)
def _written(tree: str) -> str:
    connection = hermetic_connection(threads=1, prepared=MACROS)
    return str(connection.execute("SELECT json_deserialize_sql(?::JSON)", [tree]).fetchall()[0][0])


def alike(served: Any, witnessed: Any) -> bool:
    """Whether two values are one: exactly, but for doubles, whose last digits depend on the order of their sums."""
    if served is None or witnessed is None:
        return served is witnessed
    if isinstance(served, float) or isinstance(witnessed, float):
        left, right = float(served), float(witnessed)
        return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, rel_tol=_RELATIVE, abs_tol=1e-12)
    if isinstance(served, int | Decimal) and isinstance(witnessed, int | Decimal):
        return Decimal(served) == Decimal(witnessed)
    left_parts, right_parts = _parts(served), _parts(witnessed)
    if left_parts is None or right_parts is None:
        return bool(served == witnessed)
    return len(left_parts) == len(right_parts) and all(
        alike(one, other) for one, other in zip(left_parts, right_parts, strict=True)
    )


def _parts(value: Any) -> list[Any] | None:
    """The elements of a list, the values of a struct, the pairs of a map by key; None of anything else."""
    if isinstance(value, Mapping):
        return [part for key, item in sorted(value.items(), key=lambda pair: str(pair[0])) for part in (key, item)]
    if isinstance(value, list | tuple):
        pairs = [part for part in value if isinstance(part, tuple)]
        if pairs and len(pairs) == len(value):  # a map, as Arrow gives it
            return _parts(dict(pairs))
        return list(value)
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
