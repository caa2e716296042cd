"""The SQL behind a feature set, taken down while it runs over hardly any rows: what runs is what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.features.batch.point_in_time import ColumnEvaluator
from dovetail.features.batch.relation import create_relation
from dovetail.features.batch.streaming import Visibility, evaluate_rows, positions_read
from dovetail.features.duck.connection import connect
from dovetail.features.duck.macros import MACROS
from dovetail.features.plan.definitions import Definitions, FeatureColumn, FeatureSet, StreamView
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.rows.positions import own_position_columns

__all__ = ["explain_features", "view_script"]


def explain_features(
    definitions: Definitions, features: FeatureSet, columns: Sequence[FeatureColumn], visibility: Visibility
) -> str:
    """Every statement that ``columns`` take, view by view, with comments; ``given_*`` are the tables handed in."""
    relations = {relation for column in columns for relation, _ in column.references}
    parts = []
    for join in features.joins:
        if join.view not in relations:
            continue
        if join.view in definitions.stream_views:
            view = definitions.stream_views[join.view]
            parts.append(f"-- {view.name} ({view.file}:{view.line}), in pieces by hash of {', '.join(view.entity)}")
            parts += view_script(view, visibility)
        else:
            batch = definitions.batch_views[join.view]
            parts.append(
                f"-- {batch.name} ({batch.file}:{batch.line}), once per version: every {batch.every_us / 1e6:g} s"
            )
            parts.append(batch.sql.strip().rstrip(";") + ";")
    parts.append(f"-- {features.name} ({features.file}:{features.line}), over requests joined with the views")
    script: list[str] = []
    with resources(Resources(script=script)):
        ColumnEvaluator(features, columns).evaluate(features.inputs.empty_table())
    parts += script
    return "\n".join(parts) + "\n"


def view_script(view: StreamView, visibility: Visibility) -> list[str]:
    """The statements of evaluating ``view``; they read ``given_probes`` and what :func:`~.relation.given_table` names.

    Macros come first; then what cleans events; then what the values are made of.
    """
    cleaning: list[str] = []
    nothing = {
        branch.stream.name: pa.schema([*branch.stream.schema.arrow, *own_position_columns()]).empty_table()
        for branch in view.reads
    }
    with resources(Resources(script=cleaning)):
        connection = connect(threads=1)
    create_relation(connection, view, nothing, positions_read(view, visibility))
    connection.close()
    rows, probes = _unseen(view, visibility)
    evaluating: list[str] = []
    with resources(Resources(script=evaluating)):
        evaluate_rows(view, rows, probes, visibility=visibility)
    return [*cleaning, *evaluating[len(MACROS) :]]


def _unseen(view: StreamView, visibility: Visibility) -> tuple[pa.Table, pa.Table]:
    """Rows and probes to take the script down with: none, or for ``as_served`` one that the other had not seen, so
    that what is done about late events is in the script, too."""
    rows = 1 if visibility == "as_served" else 0
    moment = pa.array([0] * rows, pa.timestamp("us"))
    key = {name: _some(type_, rows) for name, type_ in zip(view.entity, view.entity_types, strict=True)}
    given = {**key, view.stream.event_time: moment}
    fields = [*view.stream.schema.arrow, *own_position_columns()]
    positions = {field.name: pa.array([0] * rows, field.type) for field in own_position_columns()}
    columns = [{**positions, **given}.get(field.name, pa.nulls(rows, field.type)) for field in fields]
    events = pa.table(columns, names=[field.name for field in fields])
    return events, pa.table({**key, "request_time": moment, "seen": pa.array([[]] * rows, pa.list_(pa.int64()))})


def _some(type_: pa.DataType, rows: int) -> pa.Array:
    """A value of the type, whatever it is."""
    connection = connect(threads=1)
    connection.register("nothing", pa.table({"value": pa.nulls(1, type_)}))
    kind = connection.execute("SELECT typeof(value) FROM nothing").fetchall()[0][0]
    asked = f"SELECT coalesce(TRY_CAST('0' AS {kind}), TRY_CAST('2000-01-01' AS {kind})) AS value"
    value = connection.sql(asked).to_arrow_table().column("value").combine_chunks().cast(type_)
    connection.close()
    return value.slice(0, rows)
