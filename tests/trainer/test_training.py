"""The trainer stage: the same bits however polls are cut and wherever it crashes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, StaleCommit, WireError
from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.stage import Poll, Work
from dovetail.platform.testing import ManualClock
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.models.checkpoint import CheckpointStore, TrainerProgress, image
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.slots import SlotPolicy
from dovetail.trainer.training import TrainerStage
from tests.generated import tries
from tests.trainer.trainer_bench import MESSAGES, ROWS, UNIQUE, Bench, Crash, drive, poll, polls, run


def test_compiling_before_the_first_poll_leaves_the_model_as_it_was(bench: Bench) -> None:
    rows = bench.samples.schema
    for name in ("clicked", "importance"):
        where = rows.get_field_index(name)
        rows = rows.set(where, rows.field(where).with_nullable(False))
    stage = bench.stage(rows=rows, slots=SlotPolicy(admit_after=2), groups=Groups(slices=["category"]))
    before = image(stage.learner, TrainerProgress({}, {}, ()), {})
    asyncio.run(stage.start())
    assert image(stage.learner, TrainerProgress({}, {}, ()), {}) == before


def state(stage: TrainerStage) -> tuple[object, ...]:
    evaluation = {name: array.tobytes() for name, array in stage.learner.evaluation.state().items()}
    return stage.learner.records.tobytes(), evaluation, stage.accounts(), stage.trained_through, stage.resume("samples")


def test_each_row_is_trained_once_and_accounted_for(bench: Bench) -> None:
    stage = bench.stage()
    run(stage, polls([]))
    assert stage.accounts() == [
        Account("trainer", "samples", 0, "duplicate", ROWS),
        Account("trainer", "samples", 0, "read", MESSAGES * ROWS),
        Account("trainer", "samples", 0, "trained", UNIQUE),
    ]
    assert set(balance(stage.accounts()).values()) == {0}
    assert stage.learner.trained == UNIQUE
    assert stage.resume("samples") == stage.trained_through == {0: MESSAGES}
    assert stage.resume("another topic") == {}
    assert bench.versions == list(range(1, UNIQUE // 10 + 1))
    assert bench.trained[-1].trained == bench.trained[-1].rows == UNIQUE
    assert bench.trained[-1].total == stage.learner.evaluation.total()
    assert bench.trained[-1].window.samples == UNIQUE % 16 or 16


@settings(max_examples=tries(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, MESSAGES), max_size=8),
    more_cuts=st.lists(st.integers(1, MESSAGES), max_size=8),
    crash_at=st.integers(0, 15),
    after=st.booleans(),
)
def test_a_crash_anywhere_changes_no_bit(
    bench: Bench, cuts: list[int], more_cuts: list[int], crash_at: int, after: bool
) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        bench.directory = Path(one)
        whole = bench.stage()
        run(whole, polls([]))
        models = bench.models()
        assert len(models) == UNIQUE // 10
        bench.directory = Path(other)
        try:
            run(bench.stage(), polls(cuts), crash_at, after=after)
        except Crash:
            published = bench.models()
            assert published.items() <= models.items()
        resumed = bench.stage()
        run(resumed, polls(more_cuts))
        assert bench.models() == models
        assert state(resumed) == state(whole)


def test_a_version_is_the_model_after_exactly_its_rows(bench: Bench) -> None:
    stage = bench.stage(publish_every=25)
    run(stage, polls([7, 9, 20]))
    directory = ModelDirectory(bench.directory / "models")
    assert [directory.load(version).trained for version in directory.versions()] == [25, 50, 75, 100, 125]


def test_versions_published_before_are_not_published_again(bench: Bench) -> None:
    with pytest.raises(Crash):
        run(bench.stage(checkpoint_every=1000), polls([]), crash_at=4, after=True)
    assert bench.versions == [1, 2, 3, 4]
    assert len(bench.models()) == 5
    run(bench.stage(checkpoint_every=1000), polls([]))
    assert bench.versions[4:] == list(range(6, UNIQUE // 10 + 1))


def test_a_poll_read_again_is_dropped_whole(bench: Bench) -> None:
    stage = bench.stage()
    run(stage, [poll(0, 5)])
    before = state(stage)
    run_without_seeking = [work_of(stage, poll(0, 5)), work_of(stage, poll(3, 5))]
    assert run_without_seeking == [[], []]
    assert state(stage) == before
    work_of(stage, poll(3, 6))
    assert stage.trained_through == {0: 6}
    assert stage.learner.trained == 6 * ROWS


def work_of(stage: TrainerStage, each: Poll) -> list[Work]:
    async def collect() -> list[Work]:
        return [work async for work in stage.handle(each)]

    return asyncio.run(collect())


def test_a_checkpoint_completes_the_polls_before_it(bench: Bench) -> None:
    stage = bench.stage(publish_every=1000)
    assert work_of(stage, poll(0, 5)) == []
    (work,) = work_of(stage, poll(5, 6))
    assert work.done == 6
    assert stage.resume("samples") == {}
    assert work.commit is not None
    work.commit()
    assert stage.resume("samples") == {0: 6}


def test_partitions_share_the_model(bench: Bench) -> None:
    stage = bench.stage()

    async def both() -> None:
        async def one(each: Poll) -> None:
            async for work in stage.handle(each):
                assert work.commit is not None
                await asyncio.to_thread(work.commit)

        await asyncio.gather(one(poll(0, 8, partition=0)), one(poll(11, 20, partition=1)))
        await stage.stop()

    asyncio.run(both())
    assert stage.learner.trained == 17 * ROWS
    assert bench.stage().resume("samples") == {0: 8, 1: 20}
    assert set(balance(bench.stage().accounts()).values()) == {0}


def test_checkpoints_on_demand_never_go_back(bench: Bench) -> None:
    stage = bench.stage(checkpoint_every=1000, publish_every=1000)

    async def scenario() -> None:
        assert await stage.checkpoint_now() == Work()
        assert [work async for work in stage.handle(poll(0, 2))] == []
        early = await stage.checkpoint_now()
        assert [work async for work in stage.handle(poll(2, 4))] == []
        late = await stage.checkpoint_now()
        assert late.done is None
        assert early.commit is not None
        assert late.commit is not None
        late.commit()
        early.commit()
        assert await stage.checkpoint_now() == Work()

    asyncio.run(scenario())
    assert stage.resume("samples") == {0: 4}
    resumed = bench.stage(checkpoint_every=1000, publish_every=1000)
    assert state(resumed) == state(stage)


def test_a_zombie_is_told_and_stores_nothing(bench: Bench) -> None:
    zombie = bench.stage()
    zombie.resume("samples")
    run(bench.stage(), polls([]))
    stored = {path.name: path.read_bytes() for path in (bench.directory / "checkpoints").iterdir()}

    async def wakes_up() -> None:
        for each in polls([]):
            async for work in zombie.handle(each):
                assert work.commit is not None
                await asyncio.to_thread(work.commit)

    with pytest.raises(StaleCommit, match="this worker expected 0"):
        asyncio.run(wakes_up())
    assert {path.name: path.read_bytes() for path in (bench.directory / "checkpoints").iterdir()} == stored


def test_the_model_follows_its_topic_from_worker_to_worker(bench: Bench) -> None:
    todo = polls([])
    first, second = bench.stage(), bench.stage()
    first.resume("samples")
    second.resume("samples")
    run(first, todo[: len(todo) // 2])
    first.forget("samples", {0})
    run(second, todo)
    # What the first has in memory is of the past: it must not be stored, not even when its worker stops.
    run(first, todo)
    asyncio.run(first.stop())
    whole = bench.stage()
    assert state(first) == state(second) == state(whole)
    assert whole.learner.trained == UNIQUE


def test_a_trainer_that_has_lost_its_topic_stores_nothing_when_it_stops(bench: Bench) -> None:
    stage = bench.stage()

    async def scenario() -> None:
        stage.resume("samples")
        async for _ in stage.handle(poll(0, 3)):
            pass
        stage.forget("samples", {0})
        await stage.stop()

    asyncio.run(scenario())
    assert CheckpointStore(bench.directory / "checkpoints").latest() is None
    assert stage.resume("samples") == {}
    assert stage.learner.trained == 0


def test_after_a_failed_poll_nothing_is_stored_or_trained(bench: Bench) -> None:
    clicked = [None if row == 20 else value for row, value in enumerate(bench.samples["clicked"].to_pylist())]
    bench.samples = bench.samples.set_column(3, "clicked", pa.array(clicked, pa.bool_()))
    stage = bench.stage()

    async def scenario() -> None:
        with pytest.raises(WireError, match="label column 'clicked' is NULL or NaN at _partition 0, _offset 3, _row 2"):
            await drive(stage, [poll(0, 6)])
        with pytest.raises(ModelError, match=r"an earlier poll failed half-way.* nothing of partition 0 from offset 6"):
            await drive(stage, [poll(6, 7)])
        assert await stage.checkpoint_now() == Work()
        await stage.stop()

    asyncio.run(scenario())
    assert CheckpointStore(bench.directory / "checkpoints").latest() is None


def test_a_request_for_a_checkpoint_waits_for_the_poll_and_sees_its_failure(bench: Bench) -> None:
    stage = bench.stage()

    async def scenario() -> None:
        works = stage.handle(poll(0, 3))
        await anext(works)
        waiting = asyncio.create_task(stage.checkpoint_now())
        await asyncio.sleep(0)
        assert not waiting.done()
        await works.aclose()  # type: ignore[attr-defined]
        assert await waiting == Work()

    asyncio.run(scenario())


def test_another_configuration_is_refused(bench: Bench) -> None:
    run(bench.stage(), polls([]))
    with pytest.raises(ModelError, match=r"settings\.publish_every: stored 10, configured 20"):
        bench.stage(publish_every=20)
    bench.stage(checkpoint_every=99)
    for publish_every, checkpoint_every in ((0, 35), (10, 0)):
        with pytest.raises(ConfigError, match="publish_every >= 1 and checkpoint_every >= 1 samples, got"):
            bench.stage(publish_every=publish_every, checkpoint_every=checkpoint_every)


def test_missing_label_and_weight_columns_are_named(bench: Bench) -> None:
    with pytest.raises(WireError, match="the table lacks the label column 'bought'"):
        run(bench.stage(label="bought"), polls([]))
    with pytest.raises(WireError, match="the table lacks the sample weight column 'w'"):
        run(bench.stage(weight="w"), polls([]))


def test_a_checkpoint_is_taken_when_the_oldest_poll_has_waited_long_enough(bench: Bench) -> None:
    clock = ManualClock()
    stage = bench.stage(checkpoint_every=10_000, checkpoint_delay_us=60_000_000, clock=clock)

    async def settled(partition: int) -> list[int | None]:
        done = []
        async for work in stage.settle("samples", partition):
            if work.commit is not None:
                await asyncio.to_thread(work.commit)
            done.append(work.done)
        return done

    async def take(*todo: Poll) -> None:
        for each in todo:
            async for work in stage.handle(each):
                if work.commit is not None:
                    await asyncio.to_thread(work.commit)

    async def main() -> None:
        assert await settled(0) == []
        await take(poll(0, 2), poll(2, 3, partition=1))
        clock.advance(59_999_999)
        assert await settled(0) == []
        clock.advance(1)
        # One checkpoint is of all partitions; each is told when its turn comes.
        assert await settled(1) == [None, 3]
        assert stage.resume("samples") == {0: 2, 1: 3}
        assert await settled(0) == [2]
        clock.advance(60_000_000)
        assert await settled(0) == await settled(1) == []
        await take(poll(2, 4))
        clock.advance(-3_600_000_000)
        assert await settled(0) == [None, 4]  # a clock that was set back must not make it wait for an hour

    asyncio.run(main())
    assert bench.stage().resume("samples") == {0: 4, 1: 3}


def test_a_number_below_one_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="full_every >= 1 versions, got 0"):
        bench.stage(full_every=0)


@pytest.mark.parametrize("crash_at", [1, 5, 9, 14])
def test_moments_slots_and_groups_survive_a_crash(bench: Bench, crash_at: int) -> None:
    inputs = [
        InputSpec("category"),
        InputSpec("price", "standardised"),
        InputSpec(kind="cross", columns=("category", "user_id")),
    ]
    encoder = Encoder(inputs, 8)
    ends = []
    for folder in ("whole", "crashed"):
        other = Bench(bench.samples, encoder, bench.ftrl, bench.directory / folder)

        def stage(other: Bench = other) -> TrainerStage:
            return other.stage(
                full_every=3, slots=SlotPolicy(admit_after=2), groups=Groups(slices=["category"], values=3)
            )

        if folder == "crashed":
            with pytest.raises(Crash):
                run(stage(), polls([4, 9, 15]), crash_at)
        last = stage()
        run(last, polls([7]))
        learner = last.learner
        parts = {**learner.groups.state(), **{f"slot {name}": a for name, a in learner.slots.state().items()}}
        arrays = {name: array.tobytes() for name, array in parts.items()}
        ends.append((state(last), arrays, learner.moments.tobytes(), other.models()))
    assert ends[0] == ends[1]
