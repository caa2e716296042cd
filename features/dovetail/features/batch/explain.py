"""The SQL behind a feature set, taken down while it runs over no rows: what runs is what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.features.batch.connection import Resources, resources
from dovetail.features.batch.features import ColumnEvaluator
from dovetail.features.batch.streaming import Visibility, evaluate_view
from dovetail.features.plan import FeatureColumn, FeatureSet, StreamView
from dovetail.features.project import Project
from dovetail.platform.positions import own_position_columns

__all__ = ["explain_features", "view_script"]


def explain_features(
    project: Project, features: FeatureSet, columns: Sequence[FeatureColumn], visibility: Visibility
) -> str:
    """Every statement that ``columns`` take, view by view, with comments; ``given_*`` are the tables handed in."""
    relations = {relation for column in columns for relation, _ in column.references}
    parts = []
    for join in features.joins:
        if join.view not in relations:
            continue
        if join.view in project.stream_views:
            view = project.stream_views[join.view]
            events = _empty_events(view)
            probes = pa.schema([*_entity(view), ("request_time", pa.timestamp("us")), ("seen", pa.list_(pa.int64()))])
            script = view_script(view, events, probes.empty_table(), visibility)
            parts.append(f"-- {view.name} ({view.file}:{view.line}), in pieces by hash of {', '.join(view.entity)}")
            parts += script
        else:
            batch = project.batch_views[join.view]
            parts.append(
                f"-- {batch.name} ({batch.file}:{batch.line}), once per version: every {batch.every_us / 1e6:g} s"
            )
            parts.append(batch.sql.strip().rstrip(";") + ";")
    parts.append(f"-- {features.name} ({features.file}:{features.line}), over requests joined with the views")
    script = []
    with resources(Resources(script=script)):
        ColumnEvaluator(features, columns).evaluate(features.inputs.empty_table())
    parts += script
    return "\n".join(parts) + "\n"


def view_script(view: StreamView, events: pa.Table, probes: pa.Table, visibility: Visibility) -> list[str]:
    """The statements of evaluating ``view`` at ``probes``; they read ``given_events`` and ``given_probes``."""
    script: list[str] = []
    with resources(Resources(script=script)):
        evaluate_view(view, events, probes, visibility=visibility)
    return script


def _empty_events(view: StreamView) -> pa.Table:
    return pa.schema([*view.stream.schema.arrow, *own_position_columns()]).empty_table()


def _entity(view: StreamView) -> list[pa.Field]:
    return [pa.field(name, type_) for name, type_ in zip(view.entity, view.entity_types, strict=True)]
