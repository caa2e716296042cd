"""A model of one process laid down as the first states of a model on shards."""

from __future__ import annotations

from collections.abc import Mapping

from dovetail.platform.rows.positions import POSITIONS_PER_OFFSET, SourceFilter
from dovetail.trainer.learner import Learner
from dovetail.trainer.sharded.assembly import records_of
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from dovetail.trainer.sharded.stages.split_stage import SplitStage
from dovetail.trainer.sharded.stages.version_stage import VersionStage

__all__ = ["lay_down"]


def lay_down(
    learner: Learner,
    included: Mapping[int, int],
    rows: int,
    *,
    splitter: SplitStage,
    reducer: ReduceStage,
    versions: VersionStage,
    shards: ShardStage,
) -> None:
    """Store ``learner``, which has trained on the samples before the offsets ``included``, as the states of all stages.

    Those samples are dropped by the splitter whenever they come: what follows is trained on once. ``rows`` is how many
    there are, those left out included, and what versions are numbered by.

    :raises ModelError: the optimizer state is not finite.
    :raises StaleCommit: a stage has a state.
    """
    cut = splitter.fresh(0)
    cut.preparation.prepared = cut.versioned = rows
    cut.preparation.moments[...] = learner.moments
    cut.preparation.slots.restore(learner.slots.state())
    cut.filter = SourceFilter({partition: after * POSITIONS_PER_OFFSET - 1 for partition, after in included.items()})
    predicted = reducer.fresh(0)
    predicted.evaluator = predicted.evaluator.resumed(learner.evaluator.state())
    out = versions.fresh(0)
    out.given = cut.version_of(rows)
    for number in shards.partitions():
        kept = shards.fresh(number)
        ring: Ring = kept.shard.ring
        kept.shard.records[...] = records_of(ring, number, learner.records)
        shards.lay_down(number, kept)
    versions.lay_down(0, out)
    reducer.lay_down(0, predicted)
    splitter.lay_down(0, cut)
