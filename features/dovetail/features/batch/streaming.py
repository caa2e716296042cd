"""Streaming views at past moments, in DuckDB: what their values mean, by the definition's own text.

*Value at (key, T)*: put a probe row for key at T among the events, run the definition's window expressions, let the
probe contribute nothing, keep the probe. DuckDB finds the exact integers (counts, sums, extremes); what turns them into
feature values is ``finish.py``, which the stream engine uses, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlglot import TokenType

from dovetail.features import finish
from dovetail.features.batch.connection import connect
from dovetail.features.batch.visibility import recompute_as_served
from dovetail.features.plan import Aggregate, StreamView
from dovetail.features.source import Source, quoted
from dovetail.features.streaming_views import relation_name
from dovetail.platform.errors import WireError

__all__ = ["EvaluatedView", "Visibility", "evaluate_view"]

#: ``event_time``: every event up to T, whenever it arrived. ``as_served``: those that had been applied by then.
Visibility = Literal["event_time", "as_served"]


class EvaluatedView(NamedTuple):
    """Values in probe order, with the view's ``output_schema``.

    ``late`` marks the probes whose windows hold an event they had not seen: where ``as_served`` and ``event_time`` may
    differ. All False for ``event_time``.
    """

    values: pa.Table
    late: npt.NDArray[np.bool_]


def evaluate_view(
    view: StreamView,
    events: pa.Table,
    probes: pa.Table,
    *,
    time_column: str = "request_time",
    seen_column: str = "seen",
    visibility: Visibility = "event_time",
) -> EvaluatedView:
    """``view`` at each probe.

    Args:
        events: the stream's columns; for ``as_served`` also ``_partition`` and ``_offset``.
        probes: the entity columns and ``time_column`` (timestamp[us]); for ``as_served`` also ``seen_column``,
            list<int64> by partition: the first offset the probe did *not* see (missing or NULL: it saw nothing).

    A NULL in the key matches nothing: counts are 0, other aggregates NULL.

    Raises:
        WireError: a missing column, or an expression without value on some event.
        StateError: a sum has more than 38 digits.
    """
    as_served = visibility == "as_served"
    _require(events, [*view.stream.schema.arrow.names, *(("_partition", "_offset") if as_served else ())], "events")
    _require(probes, [*view.entity, time_column, *([seen_column] if as_served else [])], "probes")
    connection = connect()
    try:
        owner = _distinct_probes(connection, view, probes, time_column, seen_column if as_served else None)
        _keyed_events(connection, view, events)
        exact = _window_values(connection, view)
        late = np.zeros(exact.num_rows, dtype=np.bool_)
        if as_served:
            late, exact = recompute_as_served(connection, view, exact)
    except duckdb.Error as error:
        reason = str(error).split("\n", 1)[0]
        raise WireError(f"{view.file}:{view.line}: {view.name} has no value: {reason}") from error
    finally:
        connection.close()
    columns = [_finished(view, index, exact) for index in range(len(view.aggregates))]
    values = pa.Table.from_arrays(columns, schema=view.output_schema)
    return EvaluatedView(values.take(pa.array(owner)).combine_chunks(), late[owner])


def _require(table: pa.Table, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise WireError(f"{what} have no column {missing[0]!r}; they have {', '.join(table.column_names)}")


def _distinct_probes(
    connection: duckdb.DuckDBPyConnection, view: StreamView, probes: pa.Table, time_column: str, seen: str | None
) -> npt.NDArray[np.int64]:
    """Table ``probes(id, k0 …, t, seen)`` without repetitions (a request's candidates share its user), and which of
    them each given probe is."""
    keys = [f"k{index}" for index in range(len(view.entity))]
    arrays = [*(probes.column(column) for column in view.entity), probes.column(time_column).cast(pa.timestamp("us"))]
    names = [*keys, "t"]
    if seen is not None:
        arrays, names = [*arrays, probes.column(seen).cast(pa.list_(pa.int64()))], [*names, "seen"]
    numbers = pa.array(np.arange(probes.num_rows, dtype=np.int64))
    connection.register("given_probes", pa.table([numbers, *arrays], names=["number", *names]))
    same = ", ".join(names)
    connection.sql(f"SELECT number, dense_rank() OVER (ORDER BY {same}) - 1 AS id, {same} FROM given_probes").create(
        "numbered_probes"
    )
    connection.sql(f"SELECT DISTINCT ON (id) id, {same} FROM numbered_probes ORDER BY id").create("probes")
    owner = connection.sql("SELECT id FROM numbered_probes ORDER BY number").to_arrow_table().column("id")
    return np.asarray(owner.to_numpy(), dtype=np.int64)


def _keyed_events(connection: duckdb.DuckDBPyConnection, view: StreamView, events: pa.Table) -> None:
    """View ``events``: the rows that pass WHERE and belong to an entity."""
    connection.register("given_events", events)
    conditions = [f"{quoted(column)} IS NOT NULL" for column in view.entity]
    if view.where is not None:
        conditions.append(f"({view.where}\n)")
    connection.sql(f"SELECT * FROM given_events WHERE {' AND '.join(conditions)}").create_view("events")


def _window_values(connection: duckdb.DuckDBPyConnection, view: StreamView) -> pa.Table:
    """The exact parts of every aggregate, ``v0 … , n0 …``, in order of ``probes.id``."""
    source = Source(view.file, view.sql)
    calls, index = [], 0
    for node, span in zip(source.select.expressions, source.items(), strict=True):
        if node.unalias().key != "window":
            continue
        part = source.aggregate(span)
        condition = f"NOT _probe AND ({source.cut(part.filter)}\n)" if part.filter else "NOT _probe"
        over = f"FILTER (WHERE {condition}) OVER {source.cut(part.over)}"
        calls.append(_exact(view.aggregates[index], index, source.cut(part.argument), over))
        index += 1
    windows = "WINDOW " + source.cut(source.clause(TokenType.WINDOW, ())) if source.select.args.get("windows") else ""
    keys = ", ".join(f"k{i} AS {quoted(column)}" for i, column in enumerate(view.entity))
    query = f"""
        SELECT _probe, _id, {", ".join(calls)}
        FROM (
            SELECT *, false AS _probe, NULL::BIGINT AS _id FROM events
            UNION ALL BY NAME
            SELECT {keys}, t AS {quoted(view.stream.event_time)}, true AS _probe, id AS _id FROM probes
        ) AS {quoted(relation_name(source))}
        {windows}
    """
    return connection.sql(f"SELECT * EXCLUDE (_probe, _id) FROM ({query}) WHERE _probe ORDER BY _id").to_arrow_table()


def _exact(aggregate: Aggregate, index: int, argument: str, over: str) -> str:
    if aggregate.function == "avg":
        return f"sum({argument}\n) {over} AS v{index}, count({argument}\n) {over} AS n{index}"
    return f"{aggregate.function}({argument}\n) {over} AS v{index}"


def _finished(view: StreamView, index: int, exact: pa.Table) -> pa.Array:
    aggregate = view.aggregates[index]
    value = exact.column(f"v{index}").combine_chunks()
    if aggregate.function == "avg":
        argument = view.inputs[aggregate.input].type
        scale = argument.scale if isinstance(argument, pa.Decimal128Type) else 0
        low, high = finish.decimal_words(value.cast(pa.decimal128(38, scale)))
        count = exact.column(f"n{index}").combine_chunks().to_numpy(zero_copy_only=False)
        return finish.avg(low, high, np.asarray(count, dtype=np.int64), scale)
    if pa.types.is_floating(aggregate.type):
        return finish.canonical_floats(value)
    return value.cast(aggregate.type)
