"""Full models and deltas: a scorer never guesses across a gap, and a decision by hand outlives what is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ModelError, WireError
from dovetail.platform.rows.fitting import wire_size
from dovetail.platform.stage import Outgoing, Poll
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.mirror import ModelMirror, messages
from dovetail.trainer.models.publish import Model, ModelDirectory, delta_between
from dovetail.trainer.models.scorer import Scorer
from dovetail.trainer.samples.encoding import Encoder, InputSpec

ENCODER = Encoder([InputSpec("id"), InputSpec("x", "standardised")], 5)
TABLE = pa.table({"id": [1, 2, 3], "x": [1.0, 2.0, 3.0]})


def model(number: int) -> Model:
    """Another model for every number, with zeros where the one before has none."""
    rng = np.random.default_rng(number)
    dense = np.where(rng.random(32) < 0.5, rng.normal(size=32), 0).astype(np.float32)
    return Model.from_dense(ENCODER.fingerprint, 5, number, dense, np.array([[2.0, float(number), 4.0]]))


def publish(directory: ModelDirectory, version: int, base: int | None) -> bool:
    if base is None:
        return directory.publish(version, model(version))
    return directory.publish_delta(version, delta_between(base, model(base).dense(), model(version)))


def expected(version: int) -> Float32:
    slots, values = ENCODER.encode(TABLE, model(version).moments)
    margins = (model(version).dense()[slots].astype(np.float64) * values).sum(axis=1)
    scores: Float32 = (1 / (1 + np.exp(-margins))).astype(np.float32)
    return scores


def test_deltas_lead_to_the_same_weights_as_full_models(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    scorer, late = Scorer(directory, ENCODER), Scorer(directory, ENCODER)
    for version, base in ((1, None), (2, 1), (3, 2), (5, 3)):
        assert publish(directory, version, base)
        assert scorer.refresh()
        assert scorer.version == version
        assert scorer.predict(TABLE) == pytest.approx(expected(version), rel=1e-6)
        assert directory.load(version).dense().tobytes() == model(version).dense().tobytes()
    assert not scorer.refresh()
    assert late.refresh()
    assert late.score(TABLE).predictions.tobytes() == scorer.score(TABLE).predictions.tobytes()
    assert directory.load(5).moments.tolist() == model(5).moments.tolist()
    assert not publish(directory, 5, 3)


@given(gap=st.integers(2, 6), full=st.integers(7, 9))
def test_a_gap_is_rejected_until_the_next_full_model(
    tmp_path_factory: pytest.TempPathFactory, gap: int, full: int
) -> None:
    directory = ModelDirectory(tmp_path_factory.mktemp("models"))
    scorer = Scorer(directory, ENCODER)
    for version in range(1, 12):
        if version == gap:
            continue
        publish(directory, version, None if version in (1, full) else version - 1)
        scorer.refresh()
        assert scorer.version == (gap - 1 if gap < version < full else version)
        assert scorer.predict(TABLE) == pytest.approx(expected(scorer.version), rel=1e-6)
    with pytest.raises(ModelError, match=f"delta-{gap:012d}.npz does not exist"):
        directory.load(gap + 1) if gap + 1 != full else directory.load_delta(gap)


def test_a_rollback_holds_until_it_is_released(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path, keep=1)
    scorer = Scorer(directory, ENCODER)
    publish(directory, 1, None)
    publish(directory, 2, 1)
    scorer.refresh()
    directory.pin(1)
    assert scorer.refresh()
    assert scorer.version == 1
    for version in range(3, 9):
        publish(directory, version, None)
        assert not scorer.refresh()
    # Retention spares what is pinned, and what it is built on.
    assert directory.versions() == [1, 8]
    directory.pin(None)
    assert scorer.refresh()
    assert scorer.version == 8
    with pytest.raises(ModelError, match="does not exist"):
        directory.pin(5)
    assert directory.pinned is None


def test_a_shadow_scores_beside_the_serving_model(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    serving, shadow = Scorer(directory, ENCODER), Scorer(directory, ENCODER, role="shadow")
    for version in (1, 2):
        publish(directory, version, None)
    assert not shadow.refresh()
    directory.set_shadow(1)
    assert shadow.refresh()
    assert serving.refresh()
    assert (serving.version, shadow.version) == (2, 1)
    assert shadow.predict(TABLE) == pytest.approx(expected(1), rel=1e-6)
    directory.set_shadow(None)
    assert shadow.refresh()
    assert shadow.version == 0


def test_an_emptied_directory_starts_over(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    scorer = Scorer(directory, ENCODER)
    publish(directory, 7, None)
    scorer.refresh()
    for file in tmp_path.iterdir():
        file.unlink()
    publish(directory, 2, None)
    assert scorer.refresh()
    assert scorer.version == 2


def test_unusable_publications_are_refused(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    publish(directory, 1, None)
    with pytest.raises(ModelError, match="version 2 cannot be a delta to version 2"):
        directory.publish_delta(2, delta_between(2, model(1).dense(), model(2)))
    broken = delta_between(1, model(1).dense(), model(2))
    broken.weights[0] = np.nan
    with pytest.raises(ModelError, match="version 2 has 1 weights that are not finite and was not published"):
        directory.publish_delta(2, broken)
    (tmp_path / "delta-000000000003.npz").write_bytes(model(3).content(3))
    with pytest.raises(ModelError, match="this is a model of format 2, expected a delta"):
        directory.load_delta(3)


def test_refusals_are_remembered(tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path)
    directory.refuse(3, ["auc is 0.4"])
    assert ModelDirectory(tmp_path).refused() == {3: ["auc is 0.4"]}
    assert directory.versions() == []


def poll(outgoing: list[Outgoing]) -> Poll:
    offsets = np.arange(len(outgoing), dtype=np.int64)
    return Poll(
        "models", 0, offsets, offsets, [o.key for o in outgoing], [o.value for o in outgoing],
        [o.headers for o in outgoing],
    )  # fmt: skip


def handled(mirror: ModelMirror, outgoing: list[Outgoing]) -> None:
    import asyncio

    async def scenario() -> None:
        async for work in mirror.handle(poll(outgoing)):
            assert work.done == len(outgoing)
            assert work.commit is not None
            work.commit()

    asyncio.run(scenario())


def test_a_topic_carries_models_to_other_directories(tmp_path: Path) -> None:
    here, there = ModelDirectory(tmp_path / "here"), ModelDirectory(tmp_path / "there")
    sent: list[Outgoing] = []
    for version, base in ((1, None), (2, 1), (3, 2)):
        publish(here, version, base)
        content = (
            model(version).content(version)
            if base is None
            else delta_between(base, model(base).dense(), model(version)).content(version)
        )
        sent += messages("models", version, content, limit=800)
    assert all(wire_size(message) <= 800 for message in sent)
    assert len(sent) > 6
    mirror = ModelMirror("models", there)
    assert mirror.resume("models") == {}
    handled(mirror, sent[1:4])  # the first part is gone
    assert there.versions() == []
    handled(mirror, sent)
    handled(mirror, sent)
    assert there.versions() == here.versions() == [1, 2, 3]
    assert there.load(3).dense().tobytes() == here.load(3).dense().tobytes()
    # In the middle of a model a rebalance changes nothing, unless the partition goes: then all is read again.
    assert mirror.resume("models") == {0: len(sent)}
    later = messages("models", 5, model(5).content(5), limit=800)
    handled(mirror, later[:2])
    assert mirror.resume("models") == {0: 2}
    handled(mirror, later[2:])
    assert there.versions() == [1, 2, 3, 5]
    handled(mirror, later[:2])
    mirror.forget("models", {0})
    assert mirror.resume("models") == {}
    with pytest.raises(WireError, match="models, partition 0, offset 0: not part of a model"):
        handled(mirror, [Outgoing("models", b"?", partition=0)])
    with pytest.raises(ModelError, match="published model: torn or corrupt"):
        handled(mirror, messages("models", 4, b"nonsense"))
