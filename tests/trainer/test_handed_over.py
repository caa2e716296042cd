"""A full model handed over to a trainer: it goes on from the model's positions, and each sample counts in it once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.accounts import READ, Account, balance
from dovetail.platform.stage import Poll
from dovetail.trainer.models.checkpoint import CheckpointStore, image
from dovetail.trainer.models.handed_over import Mailbox
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.training import LEFT_OUT, TRAINED, TrainerStage
from tests.generated import tries
from tests.trainer.trainer_bench import ORDER, ROWS, Bench, Crash

#: Messages by partition; those of partition 1 are others.
ENDS = {0: 14, 1: 9}
Positions = Mapping[int, int]


class TwoPartitions(Bench):
    """A topic of two partitions, each with sources of its own."""

    def decode(self, poll: Poll) -> pa.Table:
        table = super().decode(poll)
        where = table.column_names.index("_source_partition")
        source = pa.array(np.full(table.num_rows, poll.partition, np.int32))
        return table.set_column(where, table.schema.field(where), source)


def poll(partition: int, first: int, end: int) -> Poll:
    """Messages of a partition; message 10 of partition 0 is message 4 published again."""
    offsets = np.arange(first, end, dtype=np.int64)
    runs = [ORDER[offset] if partition == 0 else 10 + offset for offset in range(first, end)]
    values = [str(run).encode() for run in runs]
    return Poll("samples", partition, offsets, offsets * 0, [None] * len(values), values, [()] * len(values))


async def live(stage: TrainerStage, ends: Positions, cut: int = 3, step: Callable[[], None] = lambda: None) -> None:
    """What the runtime does with a stage until it has read up to ``ends``; ``step`` may be where the worker dies."""
    position = dict.fromkeys(ends, 0) | dict(stage.resume("samples"))
    while True:
        for partition in ends:
            async for work in stage.settle("samples", partition):
                step()
                if work.commit is not None:
                    await asyncio.to_thread(work.commit)
                step()
                if work.afresh:
                    stage.forget("samples", {*ends})
                    position = dict.fromkeys(ends, 0) | dict(stage.resume("samples"))
                    step()
        partition = next((number for number in ends if position[number] < ends[number]), -1)
        if partition < 0:
            break
        end = min(position[partition] + cut, ends[partition])
        async for work in stage.handle(poll(partition, position[partition], end)):
            step()
            assert work.commit is not None
            await asyncio.to_thread(work.commit)
            step()
        position[partition] = end
    await stage.stop()


def trained(bench: Bench, folder: Path, ends: Positions) -> TrainerStage:
    """A trainer of its own, that has read up to ``ends``."""
    bench.directory = folder
    stage = bench.stage()
    asyncio.run(live(stage, ends))
    return stage


def full_model(bench: Bench, folder: Path, ends: Positions, name: str = "monday") -> bytes:
    """A model of the samples up to ``ends``, to be handed over."""
    stage = trained(bench, folder, ends)
    latest = CheckpointStore(folder / "checkpoints").latest()
    assert latest is not None
    return image(stage.learner, replace(latest.progress, handed_over=name), latest.configuration["settings"])


def state(stage: TrainerStage) -> tuple[object, ...]:
    evaluation = {name: array.tobytes() for name, array in stage.learner.evaluation.state().items()}
    return stage.learner.records.tobytes(), evaluation, stage.accounts(), stage.trained_through, stage.resume("samples")


@pytest.fixture
def two(bench: Bench) -> TwoPartitions:
    return TwoPartitions(bench.samples, bench.encoder, bench.ftrl, bench.directory)


def unique(partition: int, end: int) -> int:
    """Rows that count once, of the messages of a partition before ``end``."""
    return (end - (partition == 0 and end > 10)) * ROWS


def some_positions() -> st.SearchStrategy[dict[int, int]]:
    return st.fixed_dictionaries({partition: st.integers(1, end) for partition, end in ENDS.items()})


@settings(max_examples=tries(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    included=some_positions(), reached=some_positions(), cut=st.integers(1, 9),
    deaths=st.lists(st.integers(1, 12), max_size=3),
)  # fmt: skip
def test_it_is_the_trainer_that_had_always_been_there(
    two: TwoPartitions, included: dict[int, int], reached: dict[int, int], cut: int, deaths: list[int]
) -> None:
    """Before, at and behind where the trainer is, mixed by partition, the worker killed between any two steps."""
    with TemporaryDirectory() as one, TemporaryDirectory() as other, TemporaryDirectory() as third:
        content = full_model(two, Path(one), included)
        CheckpointStore(Path(other) / "checkpoints").save(content, after=0)
        whole = trained(two, Path(other), ENDS)
        trained(two, Path(third), reached)
        before = ModelDirectory(Path(third) / "models").versions()
        Mailbox(Path(third) / "checkpoints").put(content)
        for death in deaths:
            steps = iter(range(1, death))

            def step(steps: object = steps) -> None:
                if next(steps, None) is None:  # type: ignore[call-overload]
                    raise Crash

            try:
                asyncio.run(live(two.stage(), ENDS, cut, step))
            except Crash:
                continue
        stage = two.stage()
        asyncio.run(live(stage, ENDS, cut))
        assert state(stage) == state(whole)
        assert not Mailbox(Path(third) / "checkpoints").waits
        assert set(balance(stage.accounts()).values()) == {0}
        rows = {account.partition: account.rows for account in stage.accounts() if account.outcome == TRAINED}
        assert rows == {partition: unique(partition, end) for partition, end in ENDS.items()}
        newest = max([*before, sum(unique(partition, end) for partition, end in included.items()) // 10])
        after = ModelDirectory(Path(third) / "models").versions()
        assert after == [*before, *range(newest + 1, sum(rows.values()) // 10 + 1)]


def test_one_that_was_taken_in_is_not_taken_in_again(two: TwoPartitions, tmp_path: Path) -> None:
    """The worker died when the model was its checkpoint and still waited."""
    content = full_model(two, tmp_path / "one", {0: 3, 1: 3})
    trained(two, tmp_path / "two", {0: 5, 1: 5})
    mailbox = Mailbox(tmp_path / "two/checkpoints")
    mailbox.put(content)
    asyncio.run(live(two.stage(), ENDS))
    kept = CheckpointStore(tmp_path / "two/checkpoints")
    mailbox.put(content)
    newest = kept.newest()
    asyncio.run(live(two.stage(), ENDS))
    assert kept.newest() == newest
    assert not mailbox.waits
    mailbox.put(full_model(two, tmp_path / "three", {0: 4, 1: 4}, name="tuesday"))
    two.directory = tmp_path / "two"
    asyncio.run(live(two.stage(), ENDS))
    assert kept.newest() > newest


def test_versions_go_on_by_the_rows_of_the_topic(two: TwoPartitions, tmp_path: Path) -> None:
    """A model of the last rows alone, in two passes, is published when it is behind the newest version's rows."""
    fresh = trained(two, tmp_path / "fresh", {0: 1, 1: 1})
    for run in (poll(0, 4, 6), poll(0, 4, 6)):
        fresh.learner.learn(two.decode(run))
    latest = CheckpointStore(tmp_path / "fresh/checkpoints").latest()
    assert latest is not None
    accounts = [
        Account("trainer", "samples", partition, outcome, messages * ROWS)
        for partition, outcome, messages in (
            (0, READ, 6), (0, TRAINED, 2), (0, LEFT_OUT, 4), (1, READ, 2), (1, LEFT_OUT, 2),
        )
    ]  # fmt: skip
    progress = replace(latest.progress, positions={"samples": {0: 6, 1: 2}}, source_filter={0: 11 << 20, 1: 23 << 20})
    progress = replace(progress, accounts=tuple(accounts), handed_over="few")
    content = image(fresh.learner, progress, latest.configuration["settings"])
    trained(two, tmp_path / "two", {0: 8, 1: 4})
    directory = ModelDirectory(tmp_path / "two/models")
    assert directory.latest() == 12 * ROWS // 10
    two.versions.clear()
    Mailbox(tmp_path / "two/checkpoints").put(content)
    stage = two.stage()
    asyncio.run(live(stage, {0: 8, 1: 4}))
    assert two.versions == []
    asyncio.run(live(two.stage(), {0: 9, 1: 6}))
    assert two.versions == [8, 9]
    assert directory.load(9).trained == 90


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content[: len(content) // 2], "torn or corrupt"),
        (lambda content: content.replace(b'"publish_every": 10', b'"publish_every": 11'), "torn or corrupt"),
    ],
)
def test_a_damaged_one_is_put_aside_and_training_goes_on(
    two: TwoPartitions, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[bytes], bytes], said: str
) -> None:
    content = full_model(two, tmp_path / "one", {0: 3, 1: 3})
    expected = state(trained(two, tmp_path / "whole", ENDS))
    trained(two, tmp_path / "two", {0: 5, 1: 5})
    mailbox = Mailbox(tmp_path / "two/checkpoints")
    mailbox.put(harm(content))
    stage = two.stage()
    with caplog.at_level(logging.ERROR):
        asyncio.run(live(stage, ENDS))
    assert said in caplog.text
    assert not mailbox.waits
    assert (tmp_path / "two/checkpoints/handed-over-refused.npz").exists()
    assert state(stage)[2:] == expected[2:]


def test_one_of_another_configuration_is_put_aside(
    two: TwoPartitions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = full_model(two, tmp_path / "one", {0: 3, 1: 3})
    two.directory = tmp_path / "two"
    stage = two.stage(publish_every=11)
    Mailbox(tmp_path / "two/checkpoints").put(content)
    asyncio.run(live(stage, {0: 2, 1: 2}))
    assert "settings.publish_every: stored 10, configured 11" in caplog.text
    assert stage.trained_through == {0: 2, 1: 2}


def test_samples_that_the_topic_no_longer_has_are_not_lost(
    two: TwoPartitions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of partition 1 the model includes less than the trainer, and the topic begins behind it."""
    content = full_model(two, tmp_path / "one", {0: 3, 1: 3})
    trained(two, tmp_path / "two", {0: 5, 1: 5})
    mailbox = Mailbox(tmp_path / "two/checkpoints")
    mailbox.put(content)
    stage = two.stage(bounds=lambda partition: (4 if partition == 1 else 0, 5))
    asyncio.run(live(stage, {0: 5, 1: 5}))
    assert "partition 1, before offset 3; the next ones have left the topic, which begins at 4" in caplog.text
    assert stage.trained_through == {0: 5, 1: 5}
    mailbox.put(content)
    asyncio.run(live(two.stage(bounds=lambda _partition: (3, 5)), {0: 5, 1: 5}))
    latest = CheckpointStore(tmp_path / "two/checkpoints").latest()
    assert latest is not None
    assert latest.progress.handed_over == "monday"


def test_samples_that_the_topic_does_not_have_are_not_passed_over(
    two: TwoPartitions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = full_model(two, tmp_path / "one", {0: 6, 1: 3})
    trained(two, tmp_path / "two", {0: 5, 1: 5})
    Mailbox(tmp_path / "two/checkpoints").put(content)
    asyncio.run(live(two.stage(bounds=lambda _partition: (0, 5)), {0: 5, 1: 5}))
    assert "partition 0, before offset 6; the topic ends at 5" in caplog.text


def test_a_checkpoint_that_was_not_made_for_it_is_put_aside(
    two: TwoPartitions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = full_model(two, tmp_path / "one", {0: 3, 1: 3}, name="")
    trained(two, tmp_path / "two", {0: 5, 1: 5})
    Mailbox(tmp_path / "two/checkpoints").put(content)
    asyncio.run(live(two.stage(), {0: 5, 1: 5}))
    assert "was not made to be handed over to one" in caplog.text


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path / "checkpoints")
    mailbox.put(b"one")
    with pytest.raises(ConfigError, match="a model that was handed over before waits here"):
        mailbox.put(b"two")
    assert (tmp_path / "checkpoints/handed-over.npz").read_bytes() == b"one"
