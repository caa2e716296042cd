"""Another number of shards for a model that has learnt: its bits stay, and only the slots move that the rings say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from dovetail.platform.errors import ModelError
from dovetail.trainer.models.state_files import StateFiles
from dovetail.trainer.optimizers import AdaGrad
from dovetail.trainer.sharded.ring import Ring, moves
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.resharding import reshard
from dovetail.trainer.sharded.stages.shard_topics import Placement
from tests.trainer.sharded.stage_world import ENCODER, PUBLISH_EVERY, World
from tests.trainer.sharded.test_shard_stages import records_of_all


class Killed(Exception):
    """Raised where the process ends."""


def learnt(folder: Path, placed: Placement, seed: int, *, plain: bool = False) -> World:
    """A model on shards that has come to the end of its topics, and whose workers have stopped."""
    there = World(folder, AdaGrad(), Random(seed), shards=placed.shards, workers=placed.workers, plain=plain)

    async def run() -> None:
        there.feed(180)
        await there.run()
        await there.settle()

    asyncio.run(run())
    return there


def goes_on(before: World, folder: Path, placed: Placement, *, plain: bool = False) -> World:
    """Workers over the same topics and states; mailboxes of another number of shards or workers are another topic."""
    there = World(folder, AdaGrad(), before.random, shards=placed.shards, workers=placed.workers, plain=plain)
    changed = {"p": placed.shards != before.sharding.shards, "d": placed.workers != before.sharding.workers}
    for tp, messages in before.topics.items():
        if not changed.get(tp[0]):
            there.topics[tp] = messages
    there._made = before._made
    for member in there.members.values():
        member.start()

    async def run() -> None:
        there.feed(120)
        await there.run(0.02)
        await there.settle()

    asyncio.run(run())
    return there


def killed_after(states: int, folder: Path, placed: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of placement, killed when it has stored so many states."""
    save, left = StateFiles.save, states

    def dying(self: StateFiles, content: bytes, *, after: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return save(self, content, after=after)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(StateFiles, "save", dying)
        reshard(folder / "checkpoints", placed)


def require_one_process(there: World) -> None:
    """The model, its evaluation and its versions are those of one process, to the bit."""
    learner, versions = there.expected()
    assert learner.trained >= 300
    assert records_of_all(there, AdaGrad()).tobytes() == learner.records.tobytes()
    reducer = there.members["reducer"].stage
    assert isinstance(reducer, ReduceStage)
    assert reducer.stored_evaluation().total() == learner.evaluation.total()
    assert there.models.versions() == sorted(versions) == list(range(1, learner.trained // PUBLISH_EVERY + 1))
    for version, model in versions.items():
        assert there.models.load_full(version).content(version) == model.content(version)


@pytest.mark.parametrize(("shards", "others"), [(2, 3), (4, 2)])
def test_the_model_goes_on_to_the_bit_wherever_the_command_dies(
    tmp_path: Path, shards: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = learnt(tmp_path, Placement(shards), seed=shards)
    for _ in range(others + 3):  # one more state each time
        killed_after(1, tmp_path, Placement(others), monkeypatch)
    moved = sum(len(move.cells) for move in moves(Ring(shards, ENCODER.bits), Ring(others, ENCODER.bits)))
    assert reshard(tmp_path / "checkpoints", Placement(others)) == ((others, 0), (others, 0), 0, None)
    assert 0 < moved < 1 << ENCODER.bits
    there = goes_on(first, tmp_path, Placement(others))
    require_one_process(there)


@pytest.mark.parametrize("states", [2, 4, 5])
def test_one_that_was_cut_short_is_taken_back_with_the_number_before(
    tmp_path: Path, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short before the last shard, after the versions, and after the reducer."""
    first = learnt(tmp_path, Placement(2), seed=8)
    killed_after(states, tmp_path, Placement(3), monkeypatch)
    assert reshard(tmp_path / "checkpoints", Placement(2)) == ((2, 0), (2, 0), 0, (3, 0) if states > 3 else None)
    assert reshard(tmp_path / "checkpoints", Placement(2)) == ((2, 0), (2, 0), 0, None)
    require_one_process(goes_on(first, tmp_path, Placement(2)))
    with pytest.raises(ModelError, match="from a change to this number that was not finished"):
        reshard(tmp_path / "checkpoints", Placement(3))


def test_what_was_done_is_told(tmp_path: Path) -> None:
    learnt(tmp_path, Placement(2), seed=1)
    moved = sum(len(move.cells) for move in moves(Ring(2, ENCODER.bits), Ring(3, ENCODER.bits)))
    assert reshard(tmp_path / "checkpoints", Placement(3)) == ((2, 0), (3, 0), moved, None)
    with pytest.raises(
        ModelError, match=r"shard-0-of-2: there are states of so many shards.*samples were trained since"
    ):
        reshard(tmp_path / "checkpoints", Placement(2))


def test_a_model_with_messages_on_their_way_is_refused(tmp_path: Path) -> None:
    there = World(tmp_path, AdaGrad(), Random(5), shards=2)
    gone = {name: there.members.pop(name) for name in ("shard 1", "versions")}

    async def run() -> None:
        there.feed(180)
        await there.run()
        for task in there.members["splitter"].blocked.values():
            task.cancel()
        there.members |= gone
        await there.settle()

    asyncio.run(run())
    with pytest.raises(ModelError, match="has no state: let the workers run with the shards that there were"):
        reshard(tmp_path / "checkpoints", Placement(3))


@pytest.mark.parametrize(
    ("older", "said"),
    [
        ("shard-1-of-2", r"on its way between the shards \(batches that shard 1 has answered: \d+ of \d+"),
        ("splitter", r"splitter is older than others: .*versions that are out: \d+, of which it knows \d+"),
    ],
    ids=["shard", "splitter"],
)
def test_a_stage_with_an_older_state_is_refused_in_plain_words(tmp_path: Path, older: str, said: str) -> None:
    learnt(tmp_path, Placement(2), seed=6)
    files = StateFiles(tmp_path / "checkpoints" / older)
    assert files.newest() > 1
    files.path(files.newest()).unlink()
    with pytest.raises(ModelError, match=said):
        reshard(tmp_path / "checkpoints", Placement(3))


def test_where_there_is_no_model_on_shards_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model on shards yet, .*: start the workers"):
        reshard(tmp_path / "checkpoints", Placement(3))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 0), (2, 3)), ((2, 3), (2, 0)), ((2, 2), (2, 5)), ((3, 2), (2, 4)), ((2, 1), (3, 1))],
    ids=str,
)
def test_by_samples_and_with_other_workers_the_model_goes_on_to_the_bit_wherever_the_command_dies(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Placement(*before), Placement(*after)
    first = learnt(tmp_path, old, seed=sum(before), plain=True)
    killed_after(2, tmp_path, new, monkeypatch)
    # Until it is done no worker of either placement starts.
    with pytest.raises(ModelError, match="Stop all workers and run dovetail model reshard, which places the model on"):
        World(tmp_path, AdaGrad(), Random(1), shards=new.shards, workers=new.workers, plain=True)
    assert reshard(tmp_path / "checkpoints", old).after == old  # taken back
    for _ in range(8):
        killed_after(1, tmp_path, new, monkeypatch)
    assert reshard(tmp_path / "checkpoints", new).after == new
    there = goes_on(first, tmp_path, new, plain=True)
    require_one_process(there)
    # And back to so many workers as there were, whose mailboxes are the ones from then.
    if old.shards == new.shards:
        assert reshard(tmp_path / "checkpoints", old)[:3] == (new, old, 0)
        there.topics |= {tp: messages for tp, messages in first.topics.items() if tp[0] == "d"}
        again = World(tmp_path, AdaGrad(), there.random, shards=old.shards, workers=old.workers, plain=True)
        again.topics, again._made = there.topics, there._made
        for member in again.members.values():
            member.start()
        again.feed(60)
        asyncio.run(again.run())
        learner, _ = again.expected()
        assert records_of_all(again, AdaGrad()).tobytes() == learner.records.tobytes()
