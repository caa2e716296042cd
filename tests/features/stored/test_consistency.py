"""Consistency holds for the engine as it is, and catches one that is wrong, with SQL that shows the right value."""

from __future__ import annotations

import json
import math
from ast import literal_eval
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from dovetail.app.jobs import batch_versions
from dovetail.app.reports import consistency_of
from dovetail.cli.main import app
from dovetail.features.batch.pieces import Limits
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.stored.consistency import (
    Consistency,
    FeatureConsistency,
    Mismatch,
    compare,
    merged,
)
from dovetail.features.stream.engine import StreamEngine, Values
from dovetail.joiners.snapshots.shape import request_rows
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError
from tests.features.stored.stored_world import FILES, World

Step = Callable[..., Any]


def of(found: Consistency, feature: str) -> FeatureConsistency:
    return next(f for f in found.features if f.feature == feature)


def test_served_is_recomputed_and_late_events_explain_the_rest(world: World) -> None:
    world.live(60)
    days: list[str] = []
    found = consistency_of(world.project, world.stores, on_day=lambda day, _done, _of: days.append(day))
    assert len(days) == 3
    assert found.mismatched == 0
    assert of(found, "clicks").compared == 20 * 3
    assert of(found, "clicks").late > 0, "some event came after a request that it was before"
    assert of(found, "hour").late == 0
    in_pieces = consistency_of(world.project, world.stores, limits=Limits(rows_per_piece=16, threads=1))
    assert in_pieces == found
    one = consistency_of(world.project, world.stores, days=days[:1])
    assert of(one, "clicks").compared < of(found, "clicks").compared


def test_each_snapshot_is_recomputed_by_the_set_that_made_it(world: World) -> None:
    world.live(30)
    world.write("users_v2", FILES["users"].replace("'click'", "'view'"))
    world.write(
        "ranking_v2", "SELECT request_id, item_id, u.clicks FROM request LEFT JOIN users_v2 AS u USING (user_id)"
    )
    world.load(request={"feature_set": "ranking_v2"})
    world.live(60, first=30)
    assert_old_snapshots_complete(world)
    found = consistency_of(world.project, world.stores)
    assert found.mismatched == 0
    counts = {f.feature: f.compared for f in found.features}
    assert counts == {"clicks": 30, "ranking.clicks": 30, "ranking.hour": 30, "ranking.price": 30}
    (world.folder / "sql" / "ranking.sql").unlink()
    world.load(request={"feature_set": "ranking_v2"})
    with pytest.raises(ConfigError, match=r"made by feature set 'ranking', which is gone; put ranking\.sql back"):
        consistency_of(world.project, world.stores)


def assert_old_snapshots_complete(world: World) -> None:
    """Samples can be made of snapshots that the earlier set took."""
    project, stores = world.project, world.stores
    snapshots = read_dataset(stores.registry, stores.offline, "snapshots")
    server = OnlineFeatures(project.feature_set, project.stream_views, stores.online, batch_versions(project, stores))
    old = snapshots.filter(pc.equal(snapshots.column("_feature_set"), "ranking")).drop_columns(["clicks"])
    completed = server.complete(request_rows(old), old)
    assert completed.schema == project.feature_set.schema
    assert completed.column("clicks").null_count == old.num_rows


def test_nothing_stored_is_nothing_compared(world: World) -> None:
    assert consistency_of(world.project, world.stores) == Consistency()


def misses_the_present(whole: Step) -> Step:
    """Reads the window without its newest microsecond: an event at the moment of the request is missed."""

    def values(self: StreamEngine, blobs: Any, owners: Any, codes: Any, times: Any, watermark: int) -> Values:
        return whole(self, blobs, owners, codes, times - 1, watermark)  # type: ignore[no-any-return]

    return values


def adds_one(whole: Step) -> Step:
    """Counts one too many for whoever has anything."""

    def values(self: StreamEngine, *arguments: Any) -> Values:
        table, answerable = whole(self, *arguments)
        clicks = np.asarray(table.column("clicks").fill_null(0).to_numpy(), dtype=np.int64)
        wrong = pa.array(np.where(clicks > 0, clicks + 1, clicks))
        return Values(table.set_column(0, "clicks", wrong), answerable)

    return values


def forgets_the_late(whole: Step) -> Step:
    """Drops rows that are older than the watermark: what an engine without exact merging does."""

    def apply(self: StreamEngine, blobs: Any, rows: Any, read: Any) -> Any:
        rows.valid[:] = np.where(rows.event_time < rows.watermark_before, 0, rows.valid)
        return whole(self, blobs, rows, read)

    return apply


@pytest.mark.parametrize(
    ("method", "mutant", "feature"),
    [
        ("values", misses_the_present, "price"),
        ("values", adds_one, "clicks"),
        ("apply_in_chunks", forgets_the_late, "price"),
    ],
)
def test_a_broken_engine_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, mutant: Callable[[Step], Step], feature: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, method, mutant(getattr(StreamEngine, method)))
        world.live(60)
    found = of(consistency_of(world.project, world.stores), feature)
    assert found.mismatched > 0
    assert found.examples
    for example in found.examples:
        assert example.request_id.startswith("r")
        assert example.served != example.recomputed
        assert by_hand(example.sql) == {feature: literal_eval(example.recomputed)}


def by_hand(script: str) -> dict[str, Any]:
    """The last query of a script, as the DuckDB shell would answer it."""
    connection = duckdb.connect()
    result = connection.execute(script)
    row = result.fetchall()[0]
    names = [column[0] for column in result.description or []]
    connection.close()
    return dict(zip(names, row, strict=True))


def test_the_command_says_so_with_its_exit_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, "values", adds_one(StreamEngine.values))
        world.live(30)
    run = CliRunner()
    result = run.invoke(app, ["consistency", "--project", str(world.folder), "--json"])
    assert result.exit_code == 1
    clicks = next(f for f in json.loads(result.stdout)["features"] if f["feature"] == "clicks")
    assert clicks["mismatched"] == clicks["compared"] - clicks["equal"] > 0
    assert "CREATE OR REPLACE TABLE given_events" in clicks["examples"][0]["sql"]
    shown = run.invoke(app, ["consistency", "--project", str(world.folder)])
    assert shown.exit_code == 1
    assert "FAILS" in shown.stdout
    assert "by hand" in shown.stdout


def test_the_command_holds_for_the_engine_as_it_is(world: World) -> None:
    world.live(30)
    result = CliRunner().invoke(app, ["consistency", "--project", str(world.folder)])
    assert result.exit_code == 0
    assert "holds" in result.stdout


def test_a_request_feature_is_reproduced_from_the_request_alone(world: World) -> None:
    from dovetail.features.batch.reproduce import reproduce

    column = next(c for c in world.project.feature_set.columns if c.name == "hour")
    rows = {"request_id": ["it's"], "user_id": pa.array([None], pa.string()), "item_id": [1]}
    request = pa.table({**rows, "request_time": pa.array([7_200_000_000], pa.timestamp("us"))})
    assert by_hand(reproduce(world.project, column, request, {})) == {"hour": 2}


def test_the_worst_examples_are_kept() -> None:
    ids = {"request_id": [f"r{i}" for i in range(20)], "item_id": list(range(20)), "request_time": ["t"] * 20}
    served = pa.table({**ids, "x": [float(i) for i in range(19)] + [None]})
    recomputed = pa.table({"x": [0.0] * 20})
    part = compare(served, recomputed, None, ["x"])
    assert [e.distance for e in part.features[0].examples] == [math.inf, 18, 17, 16, 15]
    both = merged([part, part])
    assert (both.compared, both.mismatched) == (40, 38)
    assert [e.distance for e in both.features[0].examples] == [math.inf, math.inf, 18, 18, 17]
    asked = []

    def write(name: str, request: pa.Table) -> str:
        asked.append(request.column("row")[0].as_py())
        return f"{name}{asked[-1]}"

    rows = pa.table({"row": range(20)})
    other = compare(pa.table({**ids, "x": ["a"] * 20}), pa.table({"x": ["b"] * 20}), None, ["x"], rows)
    text = merged([other, other]).written(write)
    assert text.features[0].examples[0] == Mismatch("r0", "0", "t", "'a'", "'b'", math.inf, "x0")
    assert asked == [0, 1, 2, 3, 4], "only what is shown is written"
    assert text.written(write) == text
    assert text.to_json()["features"][0]["examples"][0]["distance"] == "inf"
