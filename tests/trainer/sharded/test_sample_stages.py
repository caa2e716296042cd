"""The stages of a model by samples: one process' model bit for bit, whoever dies when and however late messages are."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.stage import Poll
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.optimizers import AdaGrad, AdaMom, DelayCompensated, Ftrl, Ogd, Optimizer
from dovetail.trainer.settings import Checkpointing, Publication
from dovetail.trainer.sharded.batch_messages import BatchErrors, PartWeights, decode
from dovetail.trainer.sharded.mailbox import posted
from dovetail.trainer.sharded.stages.gradient_stage import GradientStage
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe
from dovetail.trainer.sharded.stages.split_stage import SplitStage
from dovetail.trainer.slots import SlotPolicy
from tests.generated import tries
from tests.trainer.sharded.stage_world import PUBLISH_EVERY, SAMPLES, World, recipe_for
from tests.trainer.sharded.test_shard_stages import live, require_one_process, world

OPTIMIZERS = (Ftrl(l1=0.02, l2=0.1), AdaGrad(l2=0.01), AdaMom(), Ogd())


def evaluated(there: World) -> ReduceStage:
    stage = there.members["reducer"].stage
    assert isinstance(stage, ReduceStage)
    return stage


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
@pytest.mark.parametrize("shards", [1, 2, 4, 7])
@settings(max_examples=tries(1), deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 5))
def test_synchronous_stages_are_one_process_whoever_dies(
    optimizer: Optimizer, shards: int, seed: int, workers: int
) -> None:
    # Messages of a part of this limit are in several pieces, some of which are out when their writer dies.
    require_one_process(world(seed, optimizer, shards, limit=2000, workers=workers))


@pytest.mark.parametrize("staleness", [0, 1, 4, None])
@settings(max_examples=tries(1), deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 5))
def test_the_bound_holds_on_topics(staleness: int | None, seed: int, workers: int) -> None:
    there = world(seed, DelayCompensated(AdaGrad()), 3, staleness=staleness, workers=workers)
    live(there, deaths=0.03)
    # After the same messages a shard has answered the same, however stale, and a worker has sent the same gradients.
    said: dict[tuple[tuple[str, int], bytes | None, object], bytes | None] = {}
    lacked = []
    for tp, messages in there.topics.items():
        for message in messages:
            kind = (message.key or b"").split(b".")[0]
            if tp[0] in "dp" and kind in (b"PartWeights", b"BatchErrors"):
                assert said.setdefault((tp, message.key, message.headers), message.value) == message.value
            if kind == b"PartWeights":
                answer = decode(message.value or b"")
                assert isinstance(answer, PartWeights)
                lacked.append(answer.number - 1 - answer.applied)
    assert lacked
    assert min(lacked) >= 0
    assert staleness is None or max(lacked) <= staleness
    learner, _ = there.expected()
    reducer = evaluated(there)
    state = reducer.state(0) or reducer.stored(0)
    assert state.evaluator.evaluation.samples == learner.trained


def test_deltas_refusals_and_versions_by_time_are_as_in_one_process() -> None:
    there = world(5, AdaGrad(), 3, full_every=3, workers=2, delay_us=5_000_000)
    live(there, deaths=0.03)
    _, versions = there.expected()
    assert there.models.deltas()
    assert there.models.versions() == sorted(versions)
    assert any(version % PUBLISH_EVERY for version in versions), "some are by time"
    for version in versions:
        assert there.models.load(version).dense().tobytes() == versions[version].dense().tobytes()
    refused = world(5, AdaGrad(), 3, gate=Gate(min_auc=0.999), workers=2)
    live(refused, deaths=0.0)
    assert refused.models.versions() == []
    assert sorted(refused.models.refused()) == list(range(1, len(refused.models.refused()) + 1))


def test_what_is_kept_of_a_worker_is_small() -> None:
    there = world(9, AdaGrad(), 2, workers=3)
    live(there, deaths=0.0, rows=300)
    asyncio.run(there.settle())
    stage = there.members["worker 2"].stage
    assert isinstance(stage, GradientStage)
    (newest,) = sorted(stage.folder(2).glob("checkpoint-*"))[-1:]
    assert newest.stat().st_size < 4_000


def test_what_is_not_a_workers_and_what_does_not_fit_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    there = world(1, AdaGrad(), 1, workers=1)
    (message,) = posted("d", 0, BatchErrors(1, np.zeros(1, np.float32)))
    there.topics["d", 0].append(message)
    with pytest.raises(ModelError, match="worker 0 was sent a BatchErrors"):
        asyncio.run(there.run())
    (wrong,) = posted("m", 0, PartWeights(1, 0, np.zeros(1, np.float32), 0))
    other = world(1, AdaGrad(), 1, workers=1)
    poll = Poll("m", 0, np.zeros(1, int), np.zeros(1, int), [wrong.key], [wrong.value], [wrong.headers])
    with pytest.raises(ModelError, match="the reducer was sent a PartWeights"):
        asyncio.run(_handled(evaluated(other), poll))
    folder = tmp_path_factory.mktemp("refused")
    recipe = ShardedRecipe(recipe_for(AdaGrad(), SlotPolicy(admit_after=2)), SAMPLES)
    stage = SplitStage(recipe, there.sharding, SAMPLES, Publication(there.models), Checkpointing(folder))
    with pytest.raises(ConfigError, match=r"slots: which slots are admitted .*; remove model\.slots, or train by feat"):
        stage.fresh(0)


async def _handled(stage: ReduceStage, poll: Poll) -> None:
    async for _ in stage.handle(poll):
        pass
