"""Versions by time: published when the first sample that is in none has waited long enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dovetail.platform.errors import ModelError
from dovetail.platform.stage import Poll, Work
from dovetail.platform.testing import ManualClock
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.training import TrainerStage
from tests.trainer.trainer_bench import MESSAGES, ROWS, Bench, poll, polls, run


def test_a_version_is_published_when_its_first_sample_has_waited_long_enough(bench: Bench) -> None:
    clock = ManualClock()

    def stage(delay_us: int | None = 5_000_000) -> TrainerStage:
        return bench.stage(publish_every=20, publish_delay_us=delay_us, full_every=3, clock=clock)

    def versions() -> list[int]:
        return ModelDirectory(bench.directory / "models", keep=100).versions()

    async def commit(works: AsyncIterator[Work]) -> None:
        async for work in works:
            if work.commit is not None:
                await asyncio.to_thread(work.commit)

    async def main(running: TrainerStage) -> None:
        await commit(running.handle(poll(0, 1)))
        clock.advance(4_999_999)
        await commit(running.settle("samples", 0))
        assert versions() == []
        clock.advance(1)
        await commit(running.settle("samples", 0))
        assert versions() == [ROWS]
        clock.advance(60_000_000)
        await commit(running.settle("samples", 0))
        assert versions() == [ROWS]  # nothing has come since
        await commit(running.handle(poll(1, 2)))
        assert versions() == [ROWS]
        clock.advance(5_000_000)
        await commit(running.handle(poll(2, 3)))
        trained = running.learner.trained
        assert versions()[-1] == trained
        await commit(running.handle(poll(3, MESSAGES - 2)))
        assert all(version % 20 == 0 or version in (ROWS, trained) for version in versions())
        assert versions()[-1] == running.learner.trained // 20 * 20
        clock.advance(-3_600_000_000)
        await commit(running.settle("samples", 0))
        assert versions()[-1] == running.learner.trained  # a clock that was set back must not make it wait
        await commit(running.settle("samples", 0, stopping=True))

    async def again(running: TrainerStage, *todo: Poll) -> None:
        for each in todo:
            await commit(running.handle(each))

    asyncio.run(main(stage()))
    before = versions()
    models = ModelDirectory(bench.directory / "models", keep=100)
    assert [models.load(version).trained for version in before] == before
    assert len(models.fulls()) < len(before)
    # One that goes on from the checkpoint trains the rows since again, and what was published stays.
    kept = bench.models()
    asyncio.run(again(stage(), *polls([20])))
    assert {name: content for name, content in bench.models().items() if name in kept} == kept
    with pytest.raises(ModelError, match=r"settings\.publish_delay: stored True"):
        stage(None)


def test_a_model_whose_versions_were_counted_goes_on_with_versions_by_time(bench: Bench) -> None:
    clock = ManualClock()
    first = bench.stage(publish_every=20, clock=clock)
    run(first, polls([])[:1])
    counted = ModelDirectory(bench.directory / "models", keep=100).versions()
    second = bench.stage(publish_every=20, publish_delay_us=1, clock=clock)
    assert second.learner.trained > counted[-1]
