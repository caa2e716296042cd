"""Snapshots written before the request's columns were called ``_request`` are read as those written now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.app.datasets import datasets
from dovetail.joiners.snapshots.shape import REQUEST_COLUMN, named_as_now, request_rows
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import with_own_positions, with_source_positions
from dovetail.platform.stage import Poll
from tests.app.small_project import project_in, write_project

USERS = {"item": 7, "user_id": "u"}


def snapshot(struct: str, **features: pa.Array) -> pa.Table:
    """One row, with the request's columns in the column ``struct``."""
    own = {
        "request_id": ["r"],
        "item_id": pa.array([1], pa.int64()),
        "request_time": pa.array([0], pa.timestamp("us")),
        struct: pa.array([USERS]),
        **features,
        "score": pa.array([0.5], pa.float32()),
    }
    return with_source_positions(with_own_positions(pa.table(own), 0, np.array([4]), np.array([0], np.int32)))


def test_a_poll_of_old_and_new_snapshots_has_the_request_of_both_and_a_feature_called_request() -> None:
    values = [snapshot("request"), snapshot(REQUEST_COLUMN, request=pa.array(["mine"]))]
    n = len(values)
    poll = Poll("t", 0, np.arange(n), np.zeros(n, np.int64), [None] * n, [wire.encode(v) for v in values], [()] * n)
    rows = wire.decode_arrow(poll, named_as_now)
    assert request_rows(rows).select(["item", "user_id"]).to_pylist() == [USERS] * 2
    assert rows.column("request").to_pylist() == [None, "mine"]


def test_the_archive_files_old_and_new_snapshots_alike(tmp_path: Path) -> None:
    """Both may be in one poll just after the change, and go into one file."""
    write_project(tmp_path)
    (archived,) = [d for d in datasets(project_in(tmp_path)) if d.name == "snapshots"]
    values = [wire.encode(snapshot(name)) for name in ("request", REQUEST_COLUMN)]
    poll = Poll("t", 0, np.arange(2), np.zeros(2, np.int64), [None] * 2, values, [()] * 2)
    rows = archived.decode(poll).table
    assert rows.column(REQUEST_COLUMN).to_pylist() == [USERS] * 2
    assert "request" not in rows.column_names


def test_a_snapshot_that_was_archived_under_the_old_name_gives_its_request() -> None:
    old = snapshot("request")
    assert request_rows(old).equals(request_rows(snapshot(REQUEST_COLUMN)))
    assert named_as_now(old).column_names == snapshot(REQUEST_COLUMN).column_names
