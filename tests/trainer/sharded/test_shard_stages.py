"""The stages of a model on shards: one process' model bit for bit, whoever dies when and however late messages are."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ModelError, StaleCommit, WireError
from dovetail.platform.stage import Outgoing, Poll, Stage
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.optimizers import AdaGrad, AdaMom, DelayCompensated, Ftrl, Ogd, Optimizer
from dovetail.trainer.settings import Checkpointing
from dovetail.trainer.sharded.assembly import gather_records
from dovetail.trainer.sharded.batch_messages import BatchErrors, PartWeights, decode, encode
from dovetail.trainer.sharded.evaluated_rows import Verdict
from dovetail.trainer.sharded.mailbox import Mailbox, posted
from dovetail.trainer.sharded.stages.kept_stage import KeptStage
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe
from tests.generated import tries
from tests.trainer.sharded.stage_world import ENCODER, PUBLISH_EVERY, SAMPLES, TOPICS, World

OPTIMIZERS = (Ftrl(l1=0.02, l2=0.1), AdaGrad(l2=0.01), AdaMom(), Ogd(), DelayCompensated(Ftrl()))


def world(seed: int, optimizer: Optimizer, shards: int, **more: object) -> World:
    return World(Path(tempfile.mkdtemp()), optimizer, Random(seed), shards=shards, **more)  # type: ignore[arg-type]


def records_of_all(there: World, optimizer: Optimizer) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    whole = optimizer.new_records(ENCODER.bits)
    for number in range(there.sharding.shards):
        stage = there.members[f"shard {number}"].stage
        assert isinstance(stage, ShardStage)
        state = stage.state(number) or stage.stored(number)  # of one that died when all was stored
        gather_records(state.shard.ring, number, state.shard.records, whole)
    return whole


def live(there: World, deaths: float, rows: int = 150) -> None:
    """Feed samples, run, stop in good order, start again, feed some more, run."""

    async def run() -> None:
        there.feed(rows)
        await there.run(deaths)
        await there.settle()
        for member in there.members.values():
            member.start()
        there.feed(rows // 3)
        await there.run(deaths)

    asyncio.run(run())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
@pytest.mark.parametrize("shards", [1, 2, 4, 7])
@settings(max_examples=tries(1), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_synchronous_stages_are_one_process_whoever_dies(optimizer: Optimizer, shards: int, seed: int) -> None:
    # Messages of a part of this limit are in several pieces, some of which are out when their writer dies.
    require_one_process(world(seed, optimizer, shards, limit=2000))


def require_one_process(there: World) -> None:
    """Stages that live, and die now and then, make the model of one process, its versions and its metrics."""
    live(there, deaths=0.03)
    optimizer = there.recipe.optimizer
    learner, versions = there.expected()
    assert learner.trained == sum(a.rows for a in there.registry.accounts() if a.outcome == "trained") >= 200
    assert records_of_all(there, optimizer).tobytes() == learner.records.tobytes()
    reducer = there.members["reducer"].stage
    assert isinstance(reducer, ReduceStage)
    state = reducer.state(0) or reducer.stored(0)
    assert state.evaluator.metrics() == learner.metrics()
    assert there.models.versions() == sorted(versions) == list(range(1, learner.trained // PUBLISH_EVERY + 1))
    for version, model in versions.items():
        assert there.models.load_full(version).content(version) == model.content(version)


@pytest.mark.parametrize("staleness", [0, 1, 4, None])
@settings(max_examples=tries(1), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_bound_holds_on_topics(staleness: int | None, seed: int) -> None:
    there = world(seed, AdaGrad(), 3, staleness=staleness)
    live(there, deaths=0.03)
    answers = [decode(m.value) for m in there.topics["m", 0] if (m.key or b"").startswith(b"PartWeights")]
    lacked = [each.number - 1 - each.applied for each in answers if isinstance(each, PartWeights)]
    assert lacked
    assert min(lacked) >= 0
    assert staleness is None or max(lacked) <= staleness
    # After the same messages a shard has sent the same, however stale: what it sends again does not contradict.
    first: dict[bytes, bytes] = {}
    for message in there.topics["m", 0]:
        if (message.key or b"").startswith(b"PartWeights"):
            assert first.setdefault(message.key or b"", message.value) == message.value
    learner, _ = there.expected()
    reducer = there.members["reducer"].stage
    assert isinstance(reducer, ReduceStage)
    state = reducer.state(0) or reducer.stored(0)
    assert state.evaluator.evaluation.samples == learner.trained


@pytest.mark.parametrize(("name", "topic"), [("splitter", "b"), ("reducer", "m"), ("versions", "v"), ("shard 0", "p")])
def test_what_was_kept_in_another_folder_is_not_begun_anew(name: str, topic: str) -> None:
    """Retention has removed the beginning; a worker without the state, or with an old one, would make another model."""
    there = world(7, AdaGrad(), 1)

    async def handle(stage: Stage, poll: Poll) -> None:
        async for _ in stage.handle(poll):
            pass

    async def run() -> None:
        there.feed(400)
        await there.run()
        messages = there.topics[topic, 0]
        offsets = np.arange(len(messages))
        keys, values, headers = zip(*((m.key, m.value, m.headers) for m in messages), strict=True)
        poll = Poll(topic, 0, offsets, offsets, keys, values, headers)
        stage = world(7, AdaGrad(), 1).members[name].stage  # with folders of its own
        with pytest.raises(ModelError, match=r"has offset 2, and the state in .* includes none.*share storage\.state"):
            await handle(stage, poll.since(2))
        await handle(stage, poll.before(1))
        with pytest.raises(ModelError, match=r"has offset 2, and the state in .* includes those before offset 1"):
            await handle(stage, poll.since(2))

    asyncio.run(run())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_splitter_is_no_further_ahead_than_its_window(workers: int) -> None:
    there = world(3, AdaGrad(), 2, workers=workers)
    for name in ("reducer", "versions", "shard 0", "shard 1"):
        del there.members[name]

    async def run() -> int:
        there.feed(1500)
        await there.run()
        for task in there.members["splitter"].blocked.values():
            task.cancel()
        splitter = there.members["splitter"].stage
        assert isinstance(splitter, KeptStage)
        assert splitter.waiting == "a batch after 0 to be predicted by the shards"
        return int(splitter.state(0).number)  # type: ignore[union-attr]

    ahead = asyncio.run(run())
    assert there.sharding.window == 16
    assert there.sharding.window <= ahead <= there.sharding.window + 2


def test_a_splitter_that_comes_back_needs_no_credit_that_is_kept() -> None:
    there = world(8, AdaGrad(), 2)
    live(there, deaths=0.0, rows=400)
    asyncio.run(there.settle())
    (said,) = {message.value for message in there.topics["c", 0][-1:]}
    there.topics["c", 0].clear()
    for member in there.members.values():
        member.start()
    reducer = there.members["reducer"].stage

    async def told() -> list[Outgoing]:
        return [message async for work in reducer.settle("m", 0) for message in work.outgoing]

    assert asyncio.run(told()) == [Outgoing("c", said, partition=0)]
    assert asyncio.run(told()) == []  # not before a minute has passed
    there.topics["c", 0].append(Outgoing("c", said, partition=0))
    there.feed(400)
    asyncio.run(there.run())
    learner, _ = there.expected()
    assert records_of_all(there, AdaGrad()).tobytes() == learner.records.tobytes()


def test_deltas_and_refusals_are_as_in_one_process() -> None:
    there = world(5, AdaGrad(), 3, full_every=3)
    live(there, deaths=0.03)
    _, versions = there.expected()
    assert 3 in there.models.fulls()
    assert there.models.deltas()
    for version in there.models.versions():
        assert there.models.load(version).dense().tobytes() == versions[version].dense().tobytes()
    refused = world(5, AdaGrad(), 3, gate=Gate(min_auc=0.999))
    live(refused, deaths=0.0)
    assert refused.models.versions() == []
    assert sorted(refused.models.refused()) == list(range(1, len(refused.models.refused()) + 1))
    assert "auc is" in refused.models.refused()[2][0]


@pytest.mark.parametrize(("name", "topic"), [("shard 1", "p"), ("worker 1", "d")])
def test_one_that_was_taken_over_cannot_write(name: str, topic: str) -> None:
    there = world(6, AdaGrad(), 2, workers=2 if topic == "d" else 0)
    live(there, deaths=0.0, rows=120)
    zombie = there.members[name].stage

    async def both() -> None:
        there.members[name].start()
        there.feed(60)
        await there.run()
        await there.settle()
        async for work in zombie.settle(topic, 1, stopping=True):
            assert work.commit is not None
            with pytest.raises(StaleCommit):
                work.commit()

    asyncio.run(both())
    assert zombie.resume(topic) == there.members[name].stage.resume(topic)


def test_checkpoints_of_other_shards_are_refused() -> None:
    there = world(7, AdaGrad(), 2)
    live(there, deaths=0.0, rows=120)
    asyncio.run(there.settle())
    recipe, folder = ShardedRecipe(there.recipe, SAMPLES), there.members["reducer"].stage
    assert isinstance(folder, ReduceStage)
    other = ReduceStage(recipe, Sharding(TOPICS, 3), Gate(), Checkpointing(folder.folder(0).parent))
    with pytest.raises(
        ModelError, match=r"shards: stored 2, configured 3\. Stop all workers and run dovetail model reshard"
    ):
        other.resume("m")


def test_memory_per_shard_is_its_share() -> None:
    optimizer = Ftrl()
    whole = optimizer.new_records(20).nbytes
    for shards in (2, 4, 7):
        stage = ShardStage(
            ENCODER.__class__(ENCODER.inputs, 20), optimizer, Sharding(TOPICS, shards), Checkpointing(Path("/nowhere"))
        )
        sizes = [stage.fresh(number).shard.records.nbytes for number in range(shards)]
        assert sum(sizes) == whole
        assert max(sizes) / whole <= 1 / shards + 0.1


def test_a_mailbox_reads_on_from_what_is_not_done() -> None:
    done = 0
    mailbox = Mailbox(0, lambda identity: identity.number <= done)
    errors = [BatchErrors(number, np.arange(200, dtype=np.float32)) for number in (1, 2)]
    pieces = [list(posted("t", 0, each, 700)) for each in errors]
    assert len(pieces[0]) > 1
    # The writer died within the first message, and sent all again behind another one's.
    sent = [pieces[0][0], *pieces[1], *pieces[0]]
    poll = Poll(
        "t", 0, np.arange(len(sent)), np.arange(len(sent)), [m.key for m in sent], [m.value for m in sent],
        [m.headers for m in sent],
    )  # fmt: skip
    taken = list(mailbox.take(poll))
    assert [encode(each) for each in taken] == [encode(errors[1]), encode(errors[0])]
    assert (mailbox.next, mailbox.position) == (len(sent), 0)
    done = 1
    assert mailbox.position == 1
    done = 2
    assert mailbox.position == len(sent)
    again = Mailbox(1, lambda identity: identity.number <= 1)
    assert [encode(each) for each in again.take(poll)] == [encode(errors[1])]
    with pytest.raises(WireError, match="t, partition 0, offset 0: no message of a sharded model"):
        list(Mailbox(0, lambda _: False).take(Poll("t", 0, np.zeros(1, int), np.zeros(1, int), [b"x"], [b""], [()])))


def test_verdicts_come_back_as_they_were() -> None:
    verdict = Verdict(3, 150, np.array([[1.0, 0.1, -0.0], [np.inf, 3e-320, 7.0]]), ("auc is low", "ø"))
    again = decode(encode(verdict))
    assert isinstance(again, Verdict)
    assert again.moments.tobytes() == verdict.moments.tobytes()
    assert (again.version, again.trained, again.reasons) == (3, 150, verdict.reasons)
