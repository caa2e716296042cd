"""Versions by time of a model on shards: the place of each is in the log, and it is one process' model there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ModelError, WireError
from dovetail.platform.stage import Outgoing
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.optimizers import AdaMom
from dovetail.trainer.sharded.ring import Ring, moves
from dovetail.trainer.sharded.stages.resharding import reshard
from dovetail.trainer.sharded.stages.shard_topics import Placement
from tests.generated import tries
from tests.trainer.sharded.stage_world import ASKED, ENCODER, PUBLISH_EVERY, World
from tests.trainer.sharded.test_shard_stages import live, records_of_all, world

DELAY = 5_000_000


def trained(there: World) -> int:
    return sum(account.rows for account in there.registry.accounts() if account.outcome == "trained")


def test_a_version_is_published_when_its_first_sample_has_waited_long_enough(tmp_path: Path) -> None:
    there = World(tmp_path, AdaMom(), Random(1), shards=3, full_every=3, delay_us=DELAY)

    async def passes(time_us: int) -> list[int]:
        await there.wait(time_us)
        await there.run()
        return there.models.versions()

    async def run() -> None:
        there._delay_us = None  # time passes where this says so
        there.feed(20)
        await there.run()
        first = trained(there)
        assert await passes(DELAY - 1) == []
        assert await passes(1) == [first]
        assert await passes(10 * DELAY) == [first]  # nothing has come since
        there.feed(PUBLISH_EVERY)
        await there.run()
        rows = trained(there)
        # One by count, numbered by rows; those after it wait from when the first of them came.
        assert there.models.versions() == [first, PUBLISH_EVERY, *([] if rows < 100 else [100])]
        assert (await passes(DELAY))[-1] == rows
        there.feed(3)
        await there.run()
        assert (await passes(-3_600_000_000))[-1] == trained(there)  # a clock that was set back makes nobody wait

    asyncio.run(run())
    there._delay_us = DELAY
    _, versions = there.expected()
    assert sorted(versions) == there.models.versions()
    assert there.models.deltas()
    for version, model in versions.items():
        assert model.trained == version
        assert there.models.load(version).dense().tobytes() == model.dense().tobytes()


@settings(max_examples=tries(4), deadline=None)
@given(seed=st.integers(0, 2**32), staleness=st.sampled_from([0, 0, 3, None]))
def test_versions_are_whole_whoever_dies(seed: int, staleness: int | None) -> None:
    there = world(seed, AdaMom(), 3, staleness=staleness, delay_us=DELAY)
    live(there, deaths=0.03)
    learner, versions = there.expected()
    assert there.models.versions() == sorted(versions)
    if staleness == 0:
        assert records_of_all(there, AdaMom()).tobytes() == learner.records.tobytes()
        for version, model in versions.items():
            assert there.models.load_full(version).content(version) == model.content(version)


def test_a_splitter_that_comes_back_asks_for_what_is_in_no_version(tmp_path: Path) -> None:
    there = World(tmp_path, AdaMom(), Random(4), shards=2, delay_us=DELAY)

    async def run() -> None:
        there.feed(7)
        await there.run()
        await there.settle()
        for member in there.members.values():
            member.start()
        await there.wait(0)  # it begins to wait
        await there.wait(DELAY)
        await there.run()

    asyncio.run(run())
    assert there.models.versions()[-1] == trained(there)


def test_one_that_is_refused_is_judged_by_time_too() -> None:
    there = world(5, AdaMom(), 2, gate=Gate(min_auc=0.999), delay_us=DELAY)
    live(there, deaths=0.0)
    _, versions = there.expected()
    assert there.models.versions() == []
    assert sorted(there.models.refused()) == sorted(versions)


def test_a_model_whose_versions_were_counted_goes_on_by_time_and_not_the_other_way(tmp_path: Path) -> None:
    counted = World(tmp_path, AdaMom(), Random(6), shards=2)

    def again(there: World) -> None:
        async def run() -> None:
            there.feed(120)
            await there.run()
            await there.wait(0)
            await there.wait(DELAY)
            await there.run()
            await there.settle()

        asyncio.run(run())

    again(counted)
    before = counted.models.versions()
    assert before == list(range(1, trained(counted) // PUBLISH_EVERY + 1))
    moved = sum(len(move.cells) for move in moves(Ring(2, ENCODER.bits), Ring(3, ENCODER.bits)))
    assert reshard(tmp_path / "checkpoints", Placement(3)) == ((2, 0), (3, 0), moved, None)
    timed = World(tmp_path, AdaMom(), Random(7), shards=3, delay_us=DELAY)
    timed._made = counted._made
    timed.topics |= {tp: messages for tp, messages in counted.topics.items() if tp[0] != "p"}
    for member in timed.members.values():
        member.start()
    again(timed)
    assert timed.models.versions()[: len(before)] == before
    assert timed.models.versions()[-1] == trained(timed) > 200
    assert reshard(tmp_path / "checkpoints", Placement(4))[:2] == ((3, 0), (4, 0))  # nothing is on its way
    with pytest.raises(ModelError, match=r"settings\.publish_delay: stored True, configured None"):
        World(tmp_path, AdaMom(), Random(7), shards=4)


def test_what_asks_for_no_number_of_rows_is_refused() -> None:
    there = world(8, AdaMom(), 1, delay_us=DELAY)
    there.topics["b", 0].append(Outgoing("b", b"", partition=0, headers=((ASKED, b"soon"),)))
    with pytest.raises(WireError, match="b: b'soon' is no number of batches or rows; only Dovetail may write"):
        asyncio.run(there.run())
