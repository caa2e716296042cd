"""Versions that a trainer publishes, deltas and full ones, and those that it does not publish."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from dovetail.platform.errors import ModelError
from dovetail.platform.stage import Poll, Work
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.models.checkpoint import CheckpointStore
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.optimizers.ogd import Ogd
from dovetail.trainer.training import TrainerStage
from tests.trainer.trainer_bench import UNIQUE, Bench, Crash, poll, polls, run


@pytest.mark.parametrize("crash_at", [0, 3, 7, 12])
@pytest.mark.parametrize("after", [False, True])
def test_deltas_and_full_models_survive_a_crash(bench: Bench, crash_at: int, after: bool) -> None:
    run(bench.stage(full_every=4), polls([3, 9]))
    expected = bench.models()
    assert [name for name in sorted(expected) if name.startswith("model")] == [
        f"model-{version:012d}.npz" for version in (1, 4, 8, 12)
    ]
    directory = ModelDirectory(bench.directory / "models", keep=100)
    assert directory.versions() == list(range(1, UNIQUE // 10 + 1))
    plain = Bench(bench.samples, bench.encoder, bench.ftrl, bench.directory / "plain")
    run(plain.stage(), polls([]))
    full = ModelDirectory(plain.directory / "models", keep=100)
    for version in directory.versions():
        assert directory.load(version).dense().tobytes() == full.load(version).dense().tobytes()
    other = Bench(bench.samples, bench.encoder, bench.ftrl, bench.directory / "other")
    with pytest.raises(Crash):
        run(other.stage(full_every=4), polls([5, 11]), crash_at, after=after)
    run(other.stage(full_every=4), polls([7]))
    assert other.models() == expected


def test_a_refused_candidate_is_not_published_and_the_next_delta_spans_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    evaluated: list[tuple[int, list[str]]] = []
    stage = bench.stage(
        full_every=100,
        gate=Gate(min_samples=25, max_log_loss=100.0),
        groups=Groups(slices=["category"], values=2),
        on_evaluated=lambda trained, metrics: evaluated.append((trained, [scope for scope, _ in metrics])),
    )
    run(stage, polls([]))
    directory = ModelDirectory(bench.directory / "models", keep=100)
    refused = directory.refused()
    assert 1 in refused
    assert refused[1] == ["only 10 recent samples, at least 25 are asked"]
    assert "version 1 is not published: only 10 recent samples" in caplog.text
    assert sorted({*refused, *directory.versions()}) == list(range(1, UNIQUE // 10 + 1))
    first = directory.fulls()[0]
    later = [version for version in directory.versions() if version > first]
    assert directory.load_delta(later[-1]).base == later[-2]
    assert evaluated[0][0] == 10
    assert evaluated[0][1][:2] == ["total", "recent"]
    assert evaluated[-1][1][-1] == "slice:category=(other)"
    assert directory.load(later[-1]).trained == later[-1] * 10


def test_models_go_to_the_topic_after_the_directory(bench: Bench) -> None:
    works = work_of_all(bench.stage(full_every=2, models_topic="models"), poll(0, 5))
    kinds = ["topic" if work.outgoing else "directory" for work in works]
    assert kinds == ["directory", "topic"] * 3
    assert works[1].outgoing[0].topic == "models"


def work_of_all(stage: TrainerStage, each: Poll) -> list[Work]:
    async def collect() -> list[Work]:
        works = []
        async for work in stage.handle(each):
            if work.commit is not None:
                work.commit()
            works.append(work)
        return works

    return asyncio.run(collect())


def test_a_diverging_model_is_neither_published_nor_checkpointed(bench: Bench) -> None:
    bench.ftrl = Ogd(alpha=1e38, lr_power=0.0)  # type: ignore[assignment]
    stage = bench.stage(publish_every=5)
    with pytest.raises(ModelError, match=r"has diverged|not finite"):
        run(stage, polls([]))
    assert CheckpointStore(bench.directory / "checkpoints").latest() is None
    directory = ModelDirectory(bench.directory / "models", keep=100)
    assert all(np.isfinite(directory.load(version).weights).all() for version in directory.versions())


def test_where_the_last_version_cannot_be_built_the_next_is_full(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    stage = bench.stage(full_every=100, checkpoint_every=1000)
    work_of_all(stage, poll(0, 6))
    directory = ModelDirectory(bench.directory / "models", keep=100)
    assert directory.fulls() == [1]
    (bench.directory / "models" / "delta-000000000002.npz").unlink()
    work_of_all(bench.stage(full_every=100), poll(0, 9))
    assert "the next version is published in full" in caplog.text
    assert directory.fulls() == [1, 4]
    assert directory.load(5).trained == 50
