"""A value computed by hand: a script for the DuckDB shell that reads the archived files and needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from dovetail.features.batch.by_hand import FINISHERS, finished_sql, type_name
from dovetail.features.batch.explain import view_script
from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.partials import row_windows
from dovetail.features.batch.relation import given_table
from dovetail.features.batch.streaming import Visibility, positions_read
from dovetail.features.duck.connection import connect
from dovetail.features.duck.macros import MACROS
from dovetail.features.language.named_columns import columns_read
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import Definitions, FeatureColumn, StreamView
from dovetail.features.plan.sources import place_of
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.duck.quoting import literal
from dovetail.platform.rows.positions import own_position_columns, seen_column, seen_columns

__all__ = ["reproduce"]

#: A row's place in its partition, of the columns of the archive, as :func:`pack` makes it.
_PLACE = f"_offset * {1 << 20} + _row"


def reproduce(
    definitions: Definitions,
    column: FeatureColumn,
    request: pa.Table,
    events: Mapping[str, DayFiles],
    visibility: Visibility = "as_served",
    *,
    begins: Mapping[int, int] | None = None,
) -> str:
    """The script for ``column`` of one request row; its last statement gives the value.

    ``as_served`` reads the events that the request had seen, by the positions it recorded; ``event_time`` all up to its
    time. With ``begins``, the first offset that is known of each partition, these positions are places of rows
    (:func:`~dovetail.platform.rows.positions.pack`), as a row has them that is enriched as of itself.

    Per streaming view come a table of the exact parts of every aggregate, then one of the view's values; then the
    feature's expression over them.
    """
    relations = dict.fromkeys(relation for relation, _ in column.references)
    views = [definitions.stream_views[relation] for relation in relations if relation in definitions.stream_views]
    script = [f"{macro};" for macro in (*MACROS, *FINISHERS)] if views else []
    for view in views:
        script += _view(view, request, events, visibility, begins)
    seen = set(seen_columns(request.column_names))
    names = [name for name in request.column_names if name not in seen]
    literals = [f"{text} AS {quoted(name)}" for name, text in zip(names, _literals(request, names), strict=True)]
    rows = ", ".join([f"(SELECT {', '.join(literals)})", *(_values(view) for view in views)])
    return "\n".join([*script, f"SELECT {column.resolved} AS {quoted(column.name)}\nFROM {rows};"]) + "\n"


def _values(view: StreamView) -> str:
    return quoted(f"values of {view.name}")


def _view(
    view: StreamView,
    request: pa.Table,
    events: Mapping[str, DayFiles],
    visibility: Visibility,
    begins: Mapping[int, int] | None,
) -> list[str]:
    time_us = int(request.column("request_time")[0].cast(pa.timestamp("us")).value)
    keys = _literals(request, view.entity)
    probe = ", ".join(f"{key} AS k{index}" for index, key in enumerate(keys))
    seen = None
    if visibility == "as_served":
        seen = request.column(seen_column(view.name))[0].as_py() or []
    return [
        f"-- {view.name} ({view.file}:{view.line}) for {', '.join(keys)} at {request.column('request_time')[0]}",
        *(_given_events(view, number, keys, time_us, seen, events, begins) for number in range(len(view.reads))),
        f"CREATE OR REPLACE TABLE given_probes AS SELECT 0::BIGINT AS number, {probe}, make_timestamp({time_us}) AS t;",
        *_parts(view),
        *_finish(view),
    ]


def _given_events(
    view: StreamView,
    number: int,
    keys: Sequence[str],
    time_us: int,
    seen: Sequence[int | None] | None,
    events: Mapping[str, DayFiles],
    begins: Mapping[int, int] | None,
) -> str:
    """The events of a branch that the request may see, from the files that may have some.

    ``seen`` is the first offset it did not see, by source; None where it may see all up to its time. With ``begins`` it
    is the first place.
    """
    branch, low = view.reads[number], earliest_read(view, time_us)
    time = quoted(branch.stream.event_time)
    conditions = [f"{time} <= make_timestamp({time_us})"]
    if low is not None:
        conditions.append(f"{time} >= make_timestamp({low})")
    if not view.branches:  # cleaning may make the key
        conditions += [f"{quoted(name)} = {key}" for name, key in zip(view.entity, keys, strict=True)]
    if seen is not None:
        until = [(place_of(view, source), offset) for source, offset in enumerate(seen) if offset]
        mine = [(place.partition, offset) for place, offset in until if place.branch == number]
        visible = [
            f"(_partition = {partition} AND _offset < {offset})"
            if begins is None
            else f"(_partition = {partition} AND _offset >= {begins.get(partition, 0)} AND {_PLACE} < {offset})"
            for partition, offset in mine
        ]
        conditions.append(f"({' OR '.join(visible) or 'false'})")
    positions = own_position_columns()[: len(positions_read(view, "event_time"))]
    read = {*columns_read(view, branch), *(field.name for field in positions)}
    paths = [literal(path) for path in events[branch.stream.name].paths(low, time_us)]
    rows = f"read_parquet([{', '.join(paths)}], union_by_name = true)\nWHERE " + "\n  AND ".join(conditions)
    there = events[branch.stream.name].columns(low, time_us)
    if not paths:
        rows = "range(0)"
    columns = [_column(field, there, read) for field in [*branch.stream.schema.arrow, *positions]]
    return f"CREATE OR REPLACE TABLE {given_table(view, number)} AS SELECT {', '.join(columns)}\nFROM {rows};"


def _column(field: pa.Field, there: pa.Schema, read: Collection[str]) -> str:
    """A declared column of the files: as it is there, widened, or NULL where it is not there or not needed."""
    name = quoted(field.name)
    if field.name not in read or field.name not in there.names:
        return f"NULL::{type_name(field.type)} AS {name}"
    return name if there.field(field.name).type == field.type else f"CAST({name} AS {type_name(field.type)}) AS {name}"


def _parts(view: StreamView) -> list[str]:
    """The statements that evaluate the view, each query's result in a table ``parts<n>``."""
    script: list[str] = []
    results = 0
    for statement in view_script(view, "event_time"):
        head = statement.split(maxsplit=2)[:2]
        if head == ["CREATE", "MACRO"] or statement.endswith("FROM rows_of_the_batch AS _rows;"):
            continue  # macros come once; what is derived is part of the finish
        if head[0] == "CREATE":
            script.append(statement.replace("CREATE ", "CREATE OR REPLACE ", 1))
        else:
            script.append(f"CREATE OR REPLACE TABLE parts{results} AS\n{statement}")
            results += 1
    return script


def _finish(view: StreamView) -> list[str]:
    """The view's values, of the tables of parts; the first of those says whose they are and is not needed."""
    tables = 1 + len(row_windows(view))
    parts = " JOIN ".join(["parts1", *(f"parts{n} USING (_id)" for n in range(2, 1 + tables))])
    made = [f"{finished_sql(view, i)} AS {quoted(a.output)}" for i, a in enumerate(view.aggregates)]
    derived = {d.output: f"CAST(({d.sql}\n) AS {type_name(d.type)})" for d in view.derived}
    names = view.output_schema.names
    outputs = [f"{derived.get(name, quoted(name))} AS {quoted(f'{view.name}.{name}')}" for name in names]
    inner = f"SELECT {', '.join(made)}\n      FROM {parts}"
    return [f"CREATE OR REPLACE TABLE {_values(view)} AS SELECT {', '.join(outputs)}\nFROM ({inner});"]


def _literals(row: pa.Table, columns: Sequence[str]) -> list[str]:
    """The values of the only row of ``row`` as SQL, with their types."""
    connection = connect(threads=1)
    connection.register("row_of_the_request", row.select(list(columns)))
    asked = ", ".join(f"typeof({quoted(name)}), CAST({quoted(name)} AS VARCHAR)" for name in columns)
    found = connection.execute(f"SELECT {asked} FROM row_of_the_request").fetchall()[0]
    connection.close()
    pairs = zip(found[::2], found[1::2], strict=True)
    return [f"CAST({'NULL' if text is None else literal(text)} AS {type_})" for type_, text in pairs]
