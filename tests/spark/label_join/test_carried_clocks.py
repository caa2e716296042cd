"""The clock of a log goes on from file to file of a join on a cluster, though each task reads one of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.storage import Stores, open_stores
from dovetail.features import load
from dovetail.spark.label_join import join_run
from tests.spark.in_process import InProcess
from tests.spark.label_join.archived_worlds import (
    CLICK,
    EXPOSURE,
    REQUESTS,
    SECOND,
    SNAPSHOTS,
    START_US,
    ArchivedWorld,
    write_flush,
    write_settings,
)
from tests.spark.label_join.test_joined import both

MINUTE = 60 * SECOND
#: No time of its own, and later than every window.
LATER = {"event_time": START_US + 20 * MINUTE}
CLICKED = {"item_id": 1, "event_time": START_US + MINUTE}
EARLIER = {"item_id": 7, "event_time": START_US - MINUTE}


@dataclass(frozen=True)
class Case:
    """Flushes of clicks and of requests, one partition each; what the log of clicks is keyed by; the expected label."""

    clicks: Sequence[Sequence[dict[str, Any]]]
    requests: Sequence[Sequence[dict[str, Any]]]
    key: str
    label: int


def asked(name: str, minute: int, items: Sequence[int] = (1,)) -> dict[str, Any]:
    time = START_US + minute * MINUTE
    candidates = [{"item_id": item} for item in items]
    return {"request_id": name, "user_id": "u", "request_time": time, "candidates": candidates}


#: A request for nothing: of no label, so that no task has it for its own sake.
EMPTY = asked("empty", 20, ())
FIRST = [[asked("r", 0)]]
CASES = {
    "the file before has a newer row": Case([[LATER], [{"request_id": "r", **CLICKED}]], FIRST, "request_id", 0),
    "a file between has none": Case(
        [[LATER], [{"request_id": "other", **EARLIER}], [{"request_id": "r", **CLICKED}]], FIRST, "request_id", 0
    ),
    "the newer row is behind": Case([[{"request_id": "r", **CLICKED}], [LATER]], FIRST, "request_id", 1),
    "labels that name no request": Case(
        [[LATER], [{"user_id": "other", **EARLIER}], [{"user_id": "u", **CLICKED}]], FIRST, "user_id", 0
    ),
    "requests that were late themselves": Case(
        [[{"user_id": "u", **CLICKED}]], [[EMPTY], [asked("r", 0)]], "user_id", 0
    ),
    "requests that came in time": Case([[{"user_id": "u", **CLICKED}]], [[asked("r", 0)], [EMPTY]], "user_id", 1),
}
LATE = [name for name, case in CASES.items() if not case.label]


def flush_all(stores: Stores, dataset: str, schema: pa.Schema, flushes: Sequence[Sequence[dict[str, Any]]]) -> None:
    offsets = itertools.count()
    time = "event_time" if "event_time" in schema.names else "request_time"
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    for rows in flushes:
        placed = [{**row, "_partition": 0, "_offset": next(offsets), "_row": 0} for row in rows]
        write_flush(stores, dataset, pa.Table.from_pylist(placed, schema=nullable), time)


def world_of(folder: Path, case: Case) -> ArchivedWorld:
    attributed = case.key == "user_id"
    write_settings(folder, 'window = "5m"', "0s", attributed=attributed)
    project = load(folder)
    stores = open_stores(project.config)
    flush_all(stores, "requests", REQUESTS, case.requests)
    made = [
        {
            "request_id": row["request_id"],
            "item_id": one["item_id"],
            "request_time": row["request_time"],
            "_request": {"user_id": row["user_id"], "_candidate": 0},
            "score": 0.5,
            "model_version": 1,
        }
        for flush in case.requests
        for row in flush
        for one in row["candidates"]
    ]
    flush_all(stores, "snapshots", SNAPSHOTS, [made])
    seen = {"request_id": "r", "item_id": 1, "event_time": START_US + SECOND}
    flush_all(stores, "exposure", EXPOSURE, [[seen]])
    flush_all(stores, "click", CLICK if attributed else EXPOSURE, case.clicks)
    return ArchivedWorld(folder, project, stores, {(0, 0): 400 << 20})


@pytest.mark.parametrize("name", CASES)
def test_a_label_counts_by_the_newest_row_of_any_file_before(name: str, tmp_path: Path) -> None:
    world = world_of(tmp_path / "project", CASES[name])
    assert both(world, InProcess())
    made = pq.read_table(world.folder / "cluster")
    world.stores.close()
    assert dict(zip(made["request_id"].to_pylist(), made["label"].to_pylist(), strict=True)) == {"r": CASES[name].label}


@pytest.mark.parametrize("name", LATE)
def test_without_the_rows_of_other_files_it_would_count(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the cases above see whether the clock is carried."""
    world = world_of(tmp_path / "project", CASES[name])
    monkeypatch.setattr(join_run, "_with_clocks", lambda parts, _: parts)
    with pytest.raises(AssertionError):
        both(world, InProcess())
    made = pq.read_table(world.folder / "cluster")
    world.stores.close()
    assert made["label"].to_pylist() == [1]
