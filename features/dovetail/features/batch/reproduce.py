"""A value computed by hand: a script for the DuckDB shell that reads the archived files and needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.features.batch.connection import connect
from dovetail.features.batch.explain import view_script
from dovetail.features.batch.features import seen_column
from dovetail.features.batch.pieces import columns_read, earliest_read
from dovetail.features.plan import FeatureColumn, StreamView
from dovetail.features.project import Project
from dovetail.features.source import quoted
from dovetail.platform.dayfiles import DayFiles

__all__ = ["reproduce"]


def reproduce(project: Project, column: FeatureColumn, request: pa.Table, events: dict[str, DayFiles]) -> str:
    """The script for ``column`` of one request row, as that request could see its events.

    Per streaming view it ends with a query of the exact parts of every aggregate, in the order of the view; then comes
    the feature's expression over them.
    """
    relations = dict.fromkeys(relation for relation, _ in column.references)
    views = [project.stream_views[relation] for relation in relations if relation in project.stream_views]
    parts = []
    for number, view in enumerate(views):
        if number:
            parts.append(f"-- {view.name}: in a session of its own, the tables' names are the same")
        parts += _view(view, request, events[view.stream.name])
    schema = [name for name in request.column_names if not name.endswith("._seen")]
    literals = [f"{text} AS {quoted(name)}" for name, text in zip(schema, _literals(request, schema), strict=True)]
    if not views:
        return f"SELECT {column.resolved} AS {quoted(column.name)}\nFROM (SELECT {', '.join(literals)});\n"
    return "\n".join([*parts, f"-- {column.name} is {column.resolved}"]) + "\n"


def _view(view: StreamView, request: pa.Table, events: DayFiles) -> list[str]:
    time_us = int(request.column("request_time")[0].cast(pa.timestamp("us")).value)
    low = earliest_read(view, time_us)
    time = quoted(view.stream.event_time)
    keys = _literals(request, view.entity)
    conditions = [f"{quoted(name)} = {key}" for name, key in zip(view.entity, keys, strict=True)]
    conditions.append(f"{time} <= make_timestamp({time_us})")
    if low is not None:
        conditions.append(f"{time} >= make_timestamp({low})")
    seen = request.column(seen_column(view.name))[0].as_py() or []
    visible = [f"(_partition = {p} AND _offset < {offset})" for p, offset in enumerate(seen) if offset]
    conditions.append(f"({' OR '.join(visible) or 'false'})")
    files = ", ".join("'" + path.replace("'", "''") + "'" for path in events.paths(low, time_us))
    read = columns_read(view)
    rows = ", ".join(quoted(n) if n in read else f"NULL AS {quoted(n)}" for n in view.stream.schema.arrow.names)
    source = f"read_parquet([{files}], union_by_name = true)"
    probe = ", ".join(f"{key} AS k{index}" for index, key in enumerate(keys))
    entity = [pa.field(name, type_) for name, type_ in zip(view.entity, view.entity_types, strict=True)]
    probes = pa.schema([*entity, ("request_time", pa.timestamp("us"))]).empty_table()
    return [
        f"-- {view.name} ({view.file}:{view.line}) for {', '.join(keys)} at {request.column('request_time')[0]}",
        f"CREATE TABLE given_events AS SELECT {rows}\nFROM {source}\nWHERE " + "\n  AND ".join(conditions) + ";",
        f"CREATE TABLE given_probes AS SELECT 0::BIGINT AS number, {probe}, make_timestamp({time_us}) AS t;",
        *view_script(view, view.stream.schema.arrow.empty_table(), probes, "event_time"),
    ]


def _literals(row: pa.Table, columns: Sequence[str]) -> list[str]:
    """The values of the only row of ``row`` as SQL, with their types."""
    connection = connect(threads=1)
    connection.register("row_of_the_request", row.select(list(columns)))
    asked = ", ".join(f"typeof({quoted(name)}), CAST({quoted(name)} AS VARCHAR)" for name in columns)
    found = connection.execute(f"SELECT {asked} FROM row_of_the_request").fetchall()[0]
    connection.close()
    pairs = zip(found[::2], found[1::2], strict=True)
    return [f"CAST({_quote(text)} AS {type_})" for type_, text in pairs]


def _quote(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"
