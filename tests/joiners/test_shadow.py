"""A snapshot with a shadow scorer keeps both scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.schema import parse_statements, parse_table
from dovetail.platform.stores.registry.store import Registry

REQUEST = "CREATE TABLE request (request_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL)"


class Fixed:
    """Scores every row alike, as one version."""

    def __init__(self, version: int, score: float) -> None:
        self.version = version
        self.value = score

    def refresh(self) -> None:
        """Nothing newer."""

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        """The same for all."""
        return self.version, np.full(table.num_rows, self.value, np.float32)


class Answer:
    """What a feature server gives."""

    def __init__(self, features: pa.Table) -> None:
        self.encoded = features
        self.snapshot_columns = ("f",)
        self.seen: dict[str, list[int]] = {}
        self.answerable = np.ones(features.num_rows, np.bool_)


def snapshot(tmp_path: Path, shadow: Fixed | None) -> pa.Table:
    nothing: Any = None
    schema = parse_table(parse_statements(Path("request.sql"), REQUEST)[0], Path("request.sql"))
    stage = SnapshotStage(
        RequestTopic("requests", Intake(schema, "request_time", None), nothing),
        Ranking(nothing, Fixed(3, 0.25), shadow),
        Answers("snapshots", "dead"),
        Registry(f"sqlite:///{tmp_path / 'r.sqlite'}"),
    )
    candidates = pa.table(
        {
            "request_id": ["r", "r"], "item_id": ["a", "b"], "request_time": pa.array([0, 0], pa.timestamp("us")),
            "user_id": [1, 1], "_partition": pa.array([0, 0], pa.int32()), "_offset": pa.array([5, 5]),
            "_row": pa.array([0, 0], pa.int32()),
        }
    )  # fmt: skip
    return stage._snapshot(
        candidates, Answer(candidates.append_column("f", pa.array([1.0, 2.0]))), np.array([True, True])
    )


@pytest.mark.parametrize("version", [0, 7])
def test_both_scores_are_in_the_snapshot(tmp_path: Path, version: int) -> None:
    rows = snapshot(tmp_path, Fixed(version, 0.75)).to_pylist()
    assert [(row["score"], row["model_version"]) for row in rows] == [(0.25, 3)] * 2
    expected = (None, None) if version == 0 else (0.75, 7)
    assert [(row["shadow_score"], row["shadow_version"]) for row in rows] == [expected] * 2


def test_without_a_shadow_there_are_no_such_columns(tmp_path: Path) -> None:
    assert not [name for name in snapshot(tmp_path, None).column_names if name.startswith("shadow")]
