"""A whole feature set in DuckDB equals the parts the serving path puts together."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from dovetail.features import Project
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.expressions.feature_rows import FeatureSetEvaluator
from dovetail.features.plan.definitions import Table
from dovetail.features.plan.request import flatten_requests
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import seen_column

HOUR, SECOND = 3_600_000_000, 1_000_000
AT = 500_000 * HOUR + 90 * SECOND


def events(project: Project) -> pa.Table:
    schema = [*project.streams["events"].schema.arrow, pa.field("_partition", pa.int32())]
    rows = [
        {"user_id": u, "item_id": i, "kind": "a", "n": 1, "event_time": AT - s * SECOND, "_partition": 0, "_offset": o}
        for o, (u, i, s) in enumerate([(1, 10, 4), (1, 10, 2), (2, 11, 1), (1, 11, 0)])
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*schema, pa.field("_offset", pa.int64())]))


def items(_: Table) -> pa.Table:
    known = [AT - HOUR, AT, AT + 2 * HOUR]
    rows = [{"item_id": 10, "category": c, "available_at": t} for c, t in zip("abc", known, strict=True)]
    schema = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})
    return pa.Table.from_pylist(rows, schema=schema)


def requests(project: Project, *users: int | None) -> pa.Table:
    candidates = [{"item_id": 10}, {"item_id": 11}, {"item_id": 12}]
    rows = [
        {"request_id": f"r{k}", "user_id": user, "request_time": AT + k * HOUR, "candidates": candidates[: 3 - k]}
        for k, user in enumerate(users)
    ]
    return flatten_requests(pa.Table.from_pylist(rows, schema=project.request.arrow))


def test_views_expressions_and_versions_come_together(project: Project) -> None:
    found = evaluate_feature_set(
        project, project.feature_set, requests(project, 1, 1), {"events": events(project)}, items
    )
    assert found.schema == project.feature_set.schema
    # At AT the newest version is the hour before: 90 seconds after it, category b was not in it.
    assert found.column("loud").to_pylist() == ["a!", None, None, "b!", None]
    assert found.column("pair_n").to_pylist() == [1, 1, 0, 0, 0]
    assert found.column("share").to_pylist() == [3.0, 3.0, None, None, None]
    assert found.column("s").to_pylist() == [30, 30, 30, 30, 30]


def test_the_duckdb_path_equals_the_request_time_lane(project: Project) -> None:
    rows = requests(project, 1, None)
    stream = events(project)
    found = evaluate_feature_set(project, project.feature_set, rows, {"events": stream}, items)
    joined = rows
    for join in project.feature_set.joins:
        if join.kind == "streaming":
            values = evaluate_view(project.stream_views[join.view], stream, rows).values
            for name in values.column_names:
                joined = joined.append_column(f"{join.view}.{name}", values.column(name))
    served = FeatureSetEvaluator(project.feature_set).evaluate(joined, ("key", "request", "streaming"))
    assert served.equals(found.select(served.column_names))


def test_as_served_reads_the_positions_of_each_view(project: Project) -> None:
    rows = requests(project, 1)
    seen = {"acts": [1], "users": [2]}
    for view, offsets in seen.items():
        rows = rows.append_column(seen_column(view), pa.array([offsets] * 3, pa.list_(pa.int64())))
    found = evaluate_feature_set(
        project, project.feature_set, rows, {"events": events(project)}, items, visibility="as_served"
    )
    assert found.column("pair_n").to_pylist() == [0, 0, 0]
    assert found.column("magnitude").to_pylist() == [pytest.approx(0.30103)] * 3


def test_no_requests_give_no_rows(project: Project) -> None:
    found = evaluate_feature_set(project, project.feature_set, requests(project), {"events": events(project)}, items)
    assert found.num_rows == 0
    assert found.schema == project.feature_set.schema


def test_an_expression_without_value_is_an_error(write_project: Callable[[dict[str, str]], Project]) -> None:
    failing = write_project({"ranking": "SELECT request_id, item_id, 7 // (item_id - 11) AS x FROM request"})
    with pytest.raises(WireError, match=r"ranking.sql: ranking has no value: .*Division by zero"):
        evaluate_feature_set(failing, failing.feature_set, requests(failing, 1), {}, items)
