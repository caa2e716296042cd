"""Checkpoints: resumed equals uninterrupted, one writer at a time, damage and differences are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ModelError, StaleCommit
from dovetail.platform.rows.accounts import Account
from dovetail.trainer.batch_training import train
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy
from dovetail.trainer.models import state_files as state_files_module
from dovetail.trainer.models.checkpoint import (
    CheckpointStore,
    TrainerProgress,
    image,
    resume,
)
from dovetail.trainer.models.container import create, pack, unpack
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from tests.generated import tries

PROGRESS = TrainerProgress(
    positions={"samples": {0: 12, 3: 2**40}},
    source_filter={0: 2**62, 11: 5},
    accounts=(Account("trainer", "samples", 0, "read", 7), Account("trainer", "samples", 0, "trained", 7)),
)


def assert_same_bits(one: Learner, other: Learner) -> None:
    assert one.records.tobytes() == other.records.tobytes()
    states = one.evaluation.state(), other.evaluation.state()
    assert {name: array.tobytes() for name, array in states[0].items()} == {
        name: array.tobytes() for name, array in states[1].items()
    }
    assert one.evaluation.total() == other.evaluation.total()
    assert one.evaluation.recent() == other.evaluation.recent()


@settings(max_examples=tries(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 150), max_size=5))
def test_resumed_equals_uninterrupted_at_any_sample(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner], cuts: list[int]
) -> None:
    table = samples(150)
    uninterrupted = new_learner()
    uninterrupted.learn(table)
    learner, start = new_learner(), 0
    with TemporaryDirectory() as directory:
        for sequence, cut in enumerate(sorted(cuts)):
            learner.learn(table.slice(start, cut - start))
            CheckpointStore(Path(directory)).save(image(learner, PROGRESS, {}), after=sequence)
            stored = CheckpointStore(Path(directory)).latest()
            assert stored is not None
            assert stored.sequence == sequence + 1
            learner, start = resume(stored, new_learner(), {}), cut
    learner.learn(table.slice(start))
    assert_same_bits(learner, uninterrupted)


def ranking_learner(encoder: Encoder, ftrl: Ftrl) -> Learner:
    return Learner(encoder, ftrl, label="clicked", ranking=RankingPolicy("user_id", 5, 20))


def test_rankings_go_on_where_they_stood(
    tmp_path: Path, samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Ftrl
) -> None:
    table = samples(150)
    whole, part = (ranking_learner(encoder, ftrl) for _ in range(2))
    whole.learn(table)
    part.learn(table.slice(0, 77))
    CheckpointStore(tmp_path).save(image(part, PROGRESS, {}), after=0)
    stored = CheckpointStore(tmp_path).latest()
    assert stored is not None
    resumed = resume(stored, ranking_learner(encoder, ftrl), {})
    resumed.learn(table.slice(77))
    assert resumed.metrics() == whole.metrics()
    ranking = whole.metrics()[0][1].ranking
    assert ranking is not None
    assert ranking.requests > 10
    with pytest.raises(ModelError, match=r"ranking\.request: stored 'user_id', configured None"):
        resume(stored, Learner(encoder, ftrl, label="clicked"), {})


def test_a_checkpoint_from_before_rankings_begins_them(
    tmp_path: Path, samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Ftrl
) -> None:
    learner = ranking_learner(encoder, ftrl)
    learner.learn(samples(50))
    CheckpointStore(tmp_path).save(image(learner, PROGRESS, {}), after=0)
    stored = CheckpointStore(tmp_path).latest()
    assert stored is not None
    del stored.configuration["ranking"]
    resumed = resume(replace(stored, rankings={}), ranking_learner(encoder, ftrl), {})
    assert resumed.trained == 50
    ranking = resumed.metrics()[0][1].ranking
    assert ranking is not None
    assert ranking.requests == 0


def test_offline_training_is_the_same_pass(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner], encoder: Encoder, ftrl: Ftrl
) -> None:
    table = samples(100)
    learner = new_learner()
    learner.learn(table)
    offline = train(
        (table.slice(start, 30) for start in range(0, 100, 30)),
        encoder=encoder,
        optimizer=ftrl,
        label="clicked",
        weight="importance",
        evaluation=Evaluation(window=40, windows=3),
    )
    assert_same_bits(offline, learner)
    assert offline.trained == 100


def test_a_trained_model_is_better_than_the_base_rate(
    samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Ftrl
) -> None:
    total = train([samples(5000)], encoder=encoder, optimizer=ftrl, label="clicked").evaluation.total()
    assert total.auc is not None
    assert total.auc > 0.7
    assert total.normalised_entropy is not None
    assert total.normalised_entropy < 0.9


def test_progress_comes_back_as_it_was(tmp_path: Path, new_learner: Callable[[], Learner]) -> None:
    store = CheckpointStore(tmp_path / "made" / "on demand")
    assert store.latest() is None
    assert store.save(image(new_learner(), PROGRESS, {}), after=0) == 1
    stored = store.latest()
    assert stored is not None
    assert stored.progress == PROGRESS


def test_negative_zero_survives(tmp_path: Path, new_learner: Callable[[], Learner]) -> None:
    learner = new_learner()
    learner.records[5, 1] = -0.0
    store = CheckpointStore(tmp_path)
    store.save(image(learner, PROGRESS, {}), after=0)
    stored = store.latest()
    assert stored is not None
    assert stored.records.tobytes() == learner.records.tobytes()


def test_every_difference_is_named(tmp_path: Path, new_learner: Callable[[], Learner], encoder: Encoder) -> None:
    store = CheckpointStore(tmp_path)
    store.save(image(new_learner(), PROGRESS, {"publish_every": 5}), after=0)
    stored = store.latest()
    assert stored is not None
    other_encoder = Encoder([*encoder.inputs[:2], InputSpec("cost", "numeric"), encoder.inputs[3]], 9)
    other = Learner(other_encoder, Ftrl(alpha=0.5), label="bought")
    with pytest.raises(ModelError, match="checkpoint 1 was written under another configuration") as caught:
        resume(stored, other, {"publish_every": 6})
    for difference in (
        "encoder.bits: stored 8, configured 9",
        "encoder.inputs[2].column: stored 'price', configured 'cost'",
        "evaluation.window: stored 40, configured 100000",
        "fingerprint: stored ",
        "label: stored 'clicked', configured 'bought'",
        "optimizer.alpha: stored 0.3, configured 0.5",
        "settings.publish_every: stored 5, configured 6",
        "weight: stored 'importance', configured None",
    ):
        assert difference in str(caught.value)


def test_fewer_inputs_are_a_difference(tmp_path: Path, new_learner: Callable[[], Learner], ftrl: Ftrl) -> None:
    store = CheckpointStore(tmp_path)
    store.save(image(new_learner(), PROGRESS, {}), after=0)
    stored = store.latest()
    assert stored is not None
    with pytest.raises(ModelError, match=r"encoder\.inputs: stored"):
        resume(stored, Learner(Encoder([InputSpec("category")], 8), ftrl, label="clicked"), {})


def test_only_one_of_two_writers_goes_on(tmp_path: Path, new_learner: Callable[[], Learner]) -> None:
    content = image(new_learner(), PROGRESS, {})
    mine, theirs = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    mine.save(content, after=0)
    theirs.save(content, after=1)
    with pytest.raises(StaleCommit, match="at offset 2, this worker expected 1"):
        mine.save(content, after=1)
    for sequence in range(2, 7):
        theirs.save(content, after=sequence)
    # Sequence 2 has been pruned; that does not make it free.
    with pytest.raises(StaleCommit, match="at offset 7, this worker expected 1"):
        mine.save(content, after=1)


@pytest.mark.parametrize("moment", ["before the draft", "after the draft"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_writer_that_loses_the_race_is_told(
    tmp_path: Path, new_learner: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch, moment: str, steps: int
) -> None:
    # A rival takes sequence 1 between this writer's look at the directory and its write. After three steps sequence 1
    # has even been pruned: creating it succeeds.
    content = image(new_learner(), PROGRESS, {})
    rival = CheckpointStore(tmp_path, keep=1)
    target = (state_files_module, "create") if moment == "before the draft" else (os, "link")
    original = getattr(*target)

    def rival_first(*arguments: object) -> None:
        monkeypatch.setattr(*target, original)
        for sequence in range(steps):
            rival.save(content, after=sequence)
        original(*arguments)

    monkeypatch.setattr(*target, rival_first)
    with pytest.raises(StaleCommit, match=f"at offset {steps}, this worker expected 0"):
        CheckpointStore(tmp_path, keep=1).save(content, after=0)
    assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{steps:012d}.npz"]


def test_an_unexplained_existing_file_is_not_swallowed(
    tmp_path: Path, new_learner: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: Path, target: Path) -> None:
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileExistsError):
        CheckpointStore(tmp_path).save(image(new_learner(), PROGRESS, {}), after=0)
    assert list(tmp_path.iterdir()) == []


def test_the_last_three_are_kept_and_dead_drafts_go(tmp_path: Path, new_learner: Callable[[], Learner]) -> None:
    (tmp_path / ".checkpoint-000000000004.npz.00ff.tmp").write_bytes(b"a crash left this")
    (tmp_path / ".checkpoint-000000000009.npz.00ff.tmp").write_bytes(b"somebody may be writing this")
    store = CheckpointStore(tmp_path)
    for sequence in range(5):
        store.save(image(new_learner(), PROGRESS, {}), after=sequence)
    kept = [f"checkpoint-{sequence:012d}.npz" for sequence in (3, 4, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-000000000009.npz.00ff.tmp", *kept]


def test_a_diverged_state_is_not_checkpointed(new_learner: Callable[[], Learner]) -> None:
    learner = new_learner()
    learner.records[9, 1] = np.nan
    with pytest.raises(ModelError, match=r"not finite \(first at slot 9\): the model has diverged"):
        image(learner, PROGRESS, {})


def test_another_format_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "checkpoint-000000000001.npz", pack({"kind": "checkpoint", "format": 9}, {}))
    with pytest.raises(ModelError, match="a checkpoint of format 9, expected a checkpoint of format 2"):
        CheckpointStore(tmp_path).latest()


def test_any_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    header, array = {"kind": "x", "n": 1}, np.arange(3, dtype=np.float32)
    content = pack(header, {"a": array})
    path = tmp_path / "damaged"
    refused = 0
    damaged = [content[:length] for length in range(len(content))]
    damaged += [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))]
    for variant in damaged:
        path.write_bytes(variant)
        try:
            found = unpack(path)
        except ModelError as error:
            assert "torn or corrupt" in str(error)  # noqa: PT017 - either outcome is right, but nothing else
            refused += 1
        else:
            assert found.header == header
            assert found.arrays["a"].tobytes() == array.tobytes()
    assert refused > len(content) * 1.4


def test_files_are_readable_by_numpy(tmp_path: Path) -> None:
    create(tmp_path / "m.npz", pack({}, {"a": np.arange(3)}))
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert archive["a"].tolist() == [0, 1, 2]


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ModelError, match="torn or corrupt"):
        unpack(tmp_path / "evil.npz")
