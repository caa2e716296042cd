"""Published models never change, are never torn, and score exactly as the trainer predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.container import create, pack
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from dovetail.trainer.samples.encoding import Encoder

MODEL = Model("f" * 64, 3, 10, np.array([1, 6], np.uint32), np.array([0.5, -2.0], np.float32))


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    assert (directory.latest(), directory.versions()) == (0, [])
    assert directory.publish(4, MODEL)
    loaded = ModelDirectory(tmp_path).load(4)
    assert loaded[:3] == MODEL[:3]
    assert loaded.dense().tolist() == [0, 0.5, 0, 0, 0, 0, -2.0, 0]
    assert (directory.latest(), directory.versions()) == (4, [4])


def test_publishing_again_is_a_no_op_and_a_version_never_changes(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    directory.publish(1, MODEL)
    before = next(tmp_path.iterdir()).read_bytes()
    assert not directory.publish(1, MODEL)
    with pytest.raises(ModelError, match=r"published before with other content\. A version never changes"):
        directory.publish(1, MODEL._replace(trained=11))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_old_versions_go_and_do_not_come_back(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, keep=2)
    for version in (1, 2, 3):
        directory.publish(version, MODEL)
    assert directory.versions() == [2, 3]
    assert not directory.publish(1, MODEL)
    assert directory.versions() == [2, 3]
    with pytest.raises(ModelError, match=r"model-000000000001.npz does not exist; published versions are \[2, 3\]"):
        directory.load(1)


def test_unusable_models_are_refused(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    for bad in (np.nan, np.inf):
        with pytest.raises(ModelError, match="version 1 has 1 weights that are not finite and was not published"):
            directory.publish(1, MODEL._replace(weights=np.array([0.5, bad], np.float32)))
    with pytest.raises(ModelError, match="version 0 cannot be published; versions start at 1"):
        directory.publish(0, MODEL)
    with pytest.raises(ConfigError, match="keep must be at least 1, got 0"):
        ModelDirectory(tmp_path, keep=0)
    create(tmp_path / "model-000000000007.npz", pack({"kind": "model", "format": 9}, {}))
    with pytest.raises(ModelError, match="a model of format 9, expected a model of format 2"):
        directory.load(7)
    assert directory.versions() == [7]


def test_scores_are_the_trainers_predictions(
    tmp_path: Path, samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    table = samples(120)
    learner = new_learner()
    learner.learn(table.slice(0, 100))
    directory = ModelDirectory(tmp_path)
    directory.publish(1, Model.of(learner))
    scorer = Scorer(directory, learner.encoder)
    assert scorer.refresh()
    scored = scorer.score(table.slice(100))
    assert (scored.version, scorer.version) == (1, 1)
    # One row at a time: the trainer's later predictions have learned from the rows between.
    assert scored.predictions[0] == learner.learn(table.slice(100, 1))[0]
    assert scored.predictions.dtype == np.float32
    assert len(scorer.predict(table.slice(0, 0))) == 0


def test_before_the_first_model_the_prior_is_predicted(
    tmp_path: Path, encoder: Encoder, samples: Callable[[int], pa.Table]
) -> None:
    scorer = Scorer(ModelDirectory(tmp_path), encoder, prior=0.25)
    assert not scorer.refresh()
    assert scorer.version == 0
    assert scorer.predict(samples(3)).tolist() == [0.25] * 3
    with pytest.raises(ConfigError, match=r"the prior must lie inside \(0, 1\), got 1"):
        Scorer(ModelDirectory(tmp_path), encoder, prior=1.0)


def test_refresh_takes_up_the_newest_and_only_then(tmp_path: Path, encoder: Encoder) -> None:
    directory = ModelDirectory(tmp_path)
    scorer = Scorer(directory, encoder)
    model = Model(encoder.fingerprint, encoder.bits, 1, MODEL.slots, MODEL.weights)
    directory.publish(1, model)
    directory.publish(2, model._replace(trained=2))
    assert scorer.refresh()
    assert scorer.version == 2
    assert not scorer.refresh()


def test_a_model_of_other_inputs_is_refused_and_the_old_one_stays(tmp_path: Path, encoder: Encoder) -> None:
    directory = ModelDirectory(tmp_path)
    directory.publish(1, Model(encoder.fingerprint, encoder.bits, 1, MODEL.slots, MODEL.weights))
    scorer = Scorer(directory, encoder)
    scorer.refresh()
    directory.publish(2, MODEL)
    with pytest.raises(ModelError, match=r"version 2 .* was trained under encoder fingerprint ffff"):
        scorer.refresh()
    assert scorer.version == 1


def test_refresh_survives_retention(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = ModelDirectory(tmp_path, keep=1)
    model = Model(encoder.fingerprint, encoder.bits, 1, MODEL.slots, MODEL.weights)
    directory.publish(1, model)
    load = directory.load

    def publish_first(version: int) -> Model:
        monkeypatch.setattr(directory, "load", load)
        directory.publish(2, model)
        return load(version)

    monkeypatch.setattr(directory, "load", publish_first)
    scorer = Scorer(directory, encoder)
    assert scorer.refresh()
    assert scorer.version == 2


def test_extreme_weights_do_not_overflow(tmp_path: Path, encoder: Encoder, samples: Callable[[int], pa.Table]) -> None:
    slots = np.arange(1 << encoder.bits, dtype=np.uint32)
    directory = ModelDirectory(tmp_path)
    for version, weight in ((1, 3e38), (2, -3e38)):
        weights = np.full(len(slots), weight, np.float32)
        directory.publish(version, Model(encoder.fingerprint, encoder.bits, 1, slots, weights))
        scorer = Scorer(directory, encoder)
        scorer.refresh()
        predictions = scorer.predict(samples(20))
        assert ((predictions > 0) & (predictions < 1)).all()
