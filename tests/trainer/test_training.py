"""The trainer stage: the same bits however polls are cut and wherever it crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.clock import Clock
from dovetail.platform.errors import ConfigError, ModelError, StaleCommit, WireError
from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.rows.positions import with_own_positions
from dovetail.platform.stage import Poll, Work
from dovetail.platform.testing import ManualClock
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation, Metrics
from dovetail.trainer.models.checkpoint import CheckpointStore, TrainerProgress, image
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.optimizers.ogd import Ogd
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.settings import Checkpointing, Publication, Recipe, SampleTopic
from dovetail.trainer.slots import SlotPolicy
from dovetail.trainer.training import Trained, TrainerListeners, TrainerStage
from tests.generated import tries

MESSAGES = 24
#: Rows per message: two requests of three candidates.
ROWS = 6
#: Message 10 is message 4 published again.
ORDER = [*range(10), 4, *range(10, MESSAGES - 1)]
#: Rows that count once.
UNIQUE = (MESSAGES - 1) * ROWS


class Bench:
    """A topic in memory and the stages that read it."""

    def __init__(self, samples: pa.Table, encoder: Encoder, ftrl: Ftrl, directory: Path) -> None:
        self.samples = samples
        self.encoder = encoder
        self.ftrl = ftrl
        self.directory = directory
        self.versions: list[int] = []
        self.trained: list[Trained] = []

    def decode(self, poll: Poll) -> pa.Table:
        """A message is the number of a run of samples; requests are their source."""
        runs = [int(value) for value in poll.values if value is not None]
        table = pa.concat_tables([self.samples.slice(run * ROWS, ROWS) for run in runs])
        source = np.concatenate([np.arange(run * ROWS, (run + 1) * ROWS) // 3 for run in runs])
        for name, values in (("partition", source * 0), ("offset", source), ("row", source * 0)):
            type_ = pa.int64() if name == "offset" else pa.int32()
            table = table.append_column(f"_source_{name}", pa.array(values, type_))
        rows = np.tile(np.arange(ROWS, dtype=np.int32), len(runs))
        return with_own_positions(table, poll.partition, np.repeat(poll.offsets, ROWS), rows)

    def stage(
        self,
        *,
        label: str = "clicked",
        weight: str = "importance",
        rows: pa.Schema | None = None,
        slots: SlotPolicy | None = None,
        groups: Groups | None = None,
        checkpoint_every: int = 35,
        checkpoint_delay_us: int = 300_000_000,
        publish_every: int = 10,
        full_every: int = 1,
        models_topic: str | None = None,
        gate: Gate | None = None,
        publish_delay_us: int | None = None,
        clock: Clock | None = None,
        on_evaluated: Callable[[int, Sequence[tuple[str, Metrics]]], None] | None = None,
    ) -> TrainerStage:
        evaluation = Evaluation(window=16, windows=2)
        directory = ModelDirectory(self.directory / "models", keep=100)
        return TrainerStage(
            SampleTopic("samples", self.decode, label, weight, rows),
            Recipe(self.encoder, self.ftrl, slots or SlotPolicy(), evaluation, groups or Groups()),
            Checkpointing(self.directory / "checkpoints", checkpoint_every, checkpoint_delay_us),
            Publication(
                directory, publish_every, full_every, models_topic, gate=gate or Gate(), delay_us=publish_delay_us
            ),
            listeners=TrainerListeners(self.versions.append, self.trained.append, on_evaluated),
            clock=clock,
        )

    def models(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.directory / "models").iterdir()}


@pytest.fixture
def bench(tmp_path: Path, samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Ftrl) -> Bench:
    return Bench(samples(UNIQUE), encoder, ftrl, tmp_path)


def poll(first: int, end: int, partition: int = 0) -> Poll:
    offsets = np.arange(first, end, dtype=np.int64)
    values = [str(ORDER[offset]).encode() for offset in range(first, end)]
    return Poll("samples", partition, offsets, offsets * 0, [None] * len(values), values, [()] * len(values))


def polls(cuts: Sequence[int]) -> list[Poll]:
    return [poll(a, b) for a, b in pairwise([0, *sorted(set(cuts) - {0, MESSAGES}), MESSAGES])]


class Crash(Exception):
    """Thrown in where a worker dies."""


async def drive(stage: TrainerStage, todo: Sequence[Poll], crash_at: int | None = None, *, after: bool = False) -> None:
    """What the runtime does; the worker dies at its ``crash_at``-th work, before or ``after`` the commit."""
    await stage.start()
    start = stage.resume("samples").get(0, 0)
    count = 0
    for each in todo:
        part = each.since(start)
        if len(part) == 0:
            continue
        async for work in stage.handle(part):
            dies = count == crash_at
            count += 1
            if dies and not after:
                raise Crash
            assert work.commit is not None
            await asyncio.to_thread(work.commit)
            if dies:
                raise Crash
    await stage.stop()


def run(stage: TrainerStage, todo: Sequence[Poll], crash_at: int | None = None, *, after: bool = False) -> None:
    asyncio.run(drive(stage, todo, crash_at, after=after))


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
