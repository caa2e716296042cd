"""A project whose candidates a file from elsewhere scores: in snapshots, beside a shadow, behind a gate, or nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from dovetail.app.scoring import scoring_of
from dovetail.app.storage import open_stores
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.sdk import EmbeddedFlow
from tests.app.small_project import TOML, at, exposure, project_in, request, write_project
from tests.onnx.made_models import linear

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'dovetail-samples[onnx]'")

SCORER = """
[scorer]
onnx = "ranker.onnx"
shadow = "candidate.onnx"
inputs = { features = ["events"] }
missing = 0.0
"""
EVENTS = [{"user_id": "u", "event_time": at(second)} for second in range(3)]


def project_folder(folder: Path, toml: str = SCORER) -> Path:
    write_project(folder, TOML + toml, messages={})
    return folder


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / "draft").write_bytes(content)
    (folder / "draft").replace(folder / name)


def sigmoid(margin: float) -> float:
    return float(1 / (1 + np.exp(-margin)))


def test_scores_and_versions_of_both_files_are_in_snapshots(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project")
    put(folder, "ranker.onnx", linear([0.5], version=7))
    put(folder, "candidate.onnx", linear([-0.5], version=9))
    with EmbeddedFlow(folder) as flow:
        flow.send("behaviour", EVENTS)
        flow.until_idle(release=False)
        ranked = flow.rank(request("r", "u", [1, 2], 10))
        assert ranked.column("events").to_pylist() == [3, 3]
        assert ranked.column("model_version").to_pylist() == [7, 7]
        assert ranked.column("score").to_pylist() == pytest.approx([sigmoid(1.5)] * 2, abs=1e-6)
        shadows = [name for name in ranked.column_names if "shadow" in name]
        assert {name: ranked.column(name)[0].as_py() for name in shadows}
        assert ranked.column("shadow_score").to_pylist() == pytest.approx([sigmoid(-1.5)] * 2, abs=1e-6)


def test_a_gate_judges_by_the_newest_archived_samples(tmp_path: Path) -> None:
    """Who has more events was clicked: a model of the opposite is refused, and ours goes on."""
    folder = project_folder(tmp_path / "project", SCORER + "[scorer.gate]\nmin_auc = 0.9\n")
    with EmbeddedFlow(folder) as flow:
        flow.send("behaviour", [*EVENTS, {"user_id": "v", "event_time": at(1)}])
        flow.until_idle(release=False)
        flow.rank([request("r0", "u", [1, 2], 10), request("r1", "v", [1, 2], 10)])
        flow.send("exposure", [exposure(name, item, 12) for name in ("r0", "r1") for item in (1, 2)])
        flow.send("click", [{"user_id": "u", "item_id": item, "event_time": at(15)} for item in (1, 2)])
        flow.until_idle()
    config = load_config(folder)
    stores = open_stores(config)
    samples = read_dataset(stores.registry, stores.offline, "samples")
    assert pc.sum(samples.column("label")).as_py() == 2
    served: list[Any] = []
    for weight, version in ((1.0, 1), (-1.0, 2)):
        put(folder, "ranker.onnx", linear([weight], version=version))
        serving = scoring_of(project_in(folder), stores, beside=False).serving
        serving.refresh()
        served.append(serving.score(samples)[0])
    stores.close()
    assert served == [1, 1]


def test_without_a_model_features_are_recorded_and_nobody_has_scored(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project", "")
    with EmbeddedFlow(folder) as flow:
        ranked = flow.rank(request("r", "u", [1], 10))
    assert ranked.select(["score", "model_version"]).to_pylist() == [{"score": 0.5, "model_version": 0}]


def test_a_gate_of_another_loss_is_refused(tmp_path: Path) -> None:
    folder = project_folder(tmp_path / "project", SCORER + "[scorer.gate]\nmax_rmse = 0.9\n")
    with pytest.raises(ConfigError, match=r"gate\.max_rmse: scores are judged as probabilities"):
        load_config(folder)
