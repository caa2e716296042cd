"""A value computed by hand: a script for the DuckDB shell that reads the archived files and needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from dovetail.features.batch.binding import Binder
from dovetail.features.batch.connection import connect
from dovetail.features.batch.explain import view_script
from dovetail.features.batch.features import seen_column
from dovetail.features.batch.pieces import columns_read, earliest_read
from dovetail.features.batch.relation import given_table
from dovetail.features.plan import FeatureColumn, StreamView
from dovetail.features.project import Project
from dovetail.features.source import quoted
from dovetail.features.sources import Place, place_of
from dovetail.platform.dayfiles import DayFiles
from dovetail.platform.positions import OWN_COLUMNS

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
        parts += _view(view, request, events)
    schema = [name for name in request.column_names if not name.endswith("._seen")]
    literals = [f"{text} AS {quoted(name)}" for name, text in zip(schema, _literals(request, schema), strict=True)]
    if not views:
        return f"SELECT {column.resolved} AS {quoted(column.name)}\nFROM (SELECT {', '.join(literals)});\n"
    return "\n".join([*parts, f"-- {column.name} is {column.resolved}"]) + "\n"


def _view(view: StreamView, request: pa.Table, events: dict[str, DayFiles]) -> list[str]:
    time_us = int(request.column("request_time")[0].cast(pa.timestamp("us")).value)
    keys = _literals(request, view.entity)
    seen = request.column(seen_column(view.name))[0].as_py() or []
    until = {place_of(view, source): offset for source, offset in enumerate(seen) if offset}
    probe = ", ".join(f"{key} AS k{index}" for index, key in enumerate(keys))
    return [
        f"-- {view.name} ({view.file}:{view.line}) for {', '.join(keys)} at {request.column('request_time')[0]}",
        *(_given(view, branch, time_us, keys, until, events) for branch in range(len(view.reads))),
        f"CREATE TABLE given_probes AS SELECT 0::BIGINT AS number, {probe}, make_timestamp({time_us}) AS t;",
        *view_script(view, "event_time"),
    ]


def _given(
    view: StreamView,
    number: int,
    time_us: int,
    keys: Sequence[str],
    until: Mapping[Place, int],
    events: Mapping[str, DayFiles],
) -> str:
    """The statement that reads what the request could see of a branch's events."""
    branch = view.reads[number]
    low, files = earliest_read(view, time_us), events[branch.stream.name]
    time = quoted(branch.stream.event_time)
    conditions = []
    if not view.branches:  # a key may be made by cleaning
        conditions = [f"{quoted(name)} = {key}" for name, key in zip(view.entity, keys, strict=True)]
    conditions.append(f"{time} <= make_timestamp({time_us})")
    if low is not None:
        conditions.append(f"{time} >= make_timestamp({low})")
    visible = [f"(_partition = {p} AND _offset < {offset})" for (mine, p), offset in until.items() if mine == number]
    conditions.append(f"({' OR '.join(visible) or 'false'})")
    paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files.paths(low, time_us))
    source = f"read_parquet([{paths}], union_by_name = true)"
    schema, read = branch.stream.schema.arrow, columns_read(view, branch)
    if not paths:  # nothing is archived of this stream yet
        source, read = "(SELECT 0 AS _partition, 0::BIGINT AS _offset, 0 AS _row)", []
        conditions = ["false"]
    kinds = _sql_types(schema)
    columns = [quoted(n) if n in read else f"CAST(NULL AS {kinds[n]}) AS {quoted(n)}" for n in schema.names]
    rows = ", ".join([*columns, *OWN_COLUMNS])
    return (
        f"CREATE TABLE {given_table(view, number)} AS SELECT {rows}\nFROM {source}\nWHERE "
        + "\n  AND ".join(conditions)
        + ";"
    )


def _sql_types(schema: pa.Schema) -> dict[str, str]:
    types = Binder({"rows": schema}).types("SELECT * FROM rows")
    return dict(zip(schema.names, types, strict=True))


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
