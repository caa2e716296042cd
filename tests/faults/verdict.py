"""What must be true after any fault, when the workers have stopped in good order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.modelling import checkpointing_of, publication_of, recipe_of, sample_topic_of
from dovetail.app.reports import (
    audit_worker,
    consistency_of,
    difference,
    join_archived,
)
from dovetail.app.storage import open_stores
from dovetail.app.trainer_stage import evaluation_of, shard_stages, trainer_stages
from dovetail.app.worker import Worker, assemble, features_of
from dovetail.features.plan.request import flatten_requests
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import DovetailError
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, SourceFilter
from dovetail.platform.stage import Poll
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.sharded.assembly import gather_records
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from dovetail.trainer.training import TrainerListeners, TrainerStage
from tests.faults.broker import Broker
from tests.faults.world import POISON, World
from tests.trainer.sharded.stage_world import learned

__all__ = ["Verdict", "judge"]


@dataclass(slots=True)
class Verdict:
    """``wrong`` says what is not as it must be; empty is the pass. ``counts`` show that something was looked at."""

    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def expect(self, what: str, found: object, wanted: object) -> None:
        """``found`` must equal ``wanted``."""
        if found != wanted:
            self.wrong.append(f"{what}: {found!r}, should be {wanted!r}")


def judge(world: World, broker: Broker) -> Verdict:
    """Everything the design promises, of a world whose messages are all read."""
    verdict, worker = Verdict(), assemble(world.project)
    checks: list[Callable[[], None]] = [
        lambda: _samples(worker, verdict),
        lambda: _served_values(worker, verdict),
        lambda: _everything_once(world, worker, verdict, broker),
        lambda: _state(world, worker, verdict),
        lambda: _model(world, broker, verdict),
    ]
    try:
        for check in checks:
            try:
                check()
            except DovetailError as error:  # what is broken enough cannot even be looked at
                verdict.wrong.append(f"{type(error).__name__}: {error}")
    finally:
        worker.stores.close()
    return verdict


def _samples(worker: Worker, verdict: Verdict) -> None:
    """Those of the stream are those of a join in DuckDB over everything archived; the accounts add up."""
    project, stores = worker.project, worker.stores
    verdict.expect("accounts that do not balance", list(audit_worker(worker).unbalanced), [])
    found = difference(stores, join_archived(project, stores, features_of(project, stores)))
    verdict.counts["samples"] = found.compared
    verdict.expect("samples missing", found.only_batch, 0)
    verdict.expect("samples too many", found.only_stream, 0)
    verdict.expect("columns in which samples differ", found.columns, {})
    archived = read_dataset(stores.registry, stores.offline, "samples")
    keys = archived.group_by(["request_id", "item_id"]).aggregate([]).num_rows if archived.num_rows else 0
    verdict.expect("distinct samples", keys, archived.num_rows)


def _served_values(worker: Worker, verdict: Verdict) -> None:
    """Every value served is what DuckDB computes from the events that the snapshot says it had seen."""
    served = consistency_of(worker.project, worker.stores)
    verdict.counts["values"] = served.compared
    verdict.expect("served values that are not the recomputed ones", served.mismatched, 0)


def _everything_once(world: World, worker: Worker, verdict: Verdict, broker: Broker) -> None:
    """Each request has one snapshot; each event is in the archive once; poison, and only that, is a dead letter."""
    stores, config = worker.stores, world.project.config
    snapshots = read_dataset(stores.registry, stores.offline, "snapshots")
    requests = snapshots.group_by("request_id").aggregate([]).num_rows if snapshots.num_rows else 0
    verdict.expect("requests answered", requests, world.counts["requests"])
    verdict.expect("snapshot rows archived", snapshots.num_rows, world.counts["snapshot_rows"])
    # A broker that was killed has forgotten producers whose messages are older than a day, as these are, and takes what
    # they send again: each is an event. Where messages have ids, what came twice is none.
    ends = broker.ends({topic: config.topics()[topic] for topic in world.inputs})
    twice = {of: sum(end for (topic, _), end in ends.items() if topic == of) - world.sent[of] for of in world.inputs}
    if world.over_http:
        twice = dict.fromkeys(twice, 0)
    verdict.expect("requests that the load has sent twice", twice[config.request.topic], 0)
    sent = world.counts["events"] + twice[config.streams["behaviour"].topic]
    for stream, columns in (("behaviour", OWN_COLUMNS), ("behaviour_by_item", SOURCE_COLUMNS)):
        events = read_dataset(stores.registry, stores.offline, stream)
        positions = events.group_by(list(columns)).aggregate([]).num_rows if events.num_rows else 0
        verdict.expect(f"events archived of {stream}", events.num_rows, sent)
        verdict.expect(f"distinct positions of archived events of {stream}", positions, events.num_rows)
    windows = stores.registry.windows.windows()
    for name in (*world.project.streams, *config.labels.streams, "requests", "snapshots", "samples"):
        sketched = sum(rows for rows, _ in windows.get(name, {}).values())
        archived = sum(file.rows for file in stores.registry.files(name))
        verdict.expect(f"archived rows of {name} in sketches of windows", sketched, archived)
    poison = {
        f"{poll.topic}[{poll.partition}]@{offset}"
        for topic in (world.inputs if world.poison else ())
        for poll in broker.read(topic, config.topics()[topic])
        for offset, value in zip(poll.offsets.tolist(), poll.values, strict=True)
        if value in POISON
    }
    letters = {
        value.decode()
        for poll in broker.read(config.dead_letter_topic, 1)
        for headers in poll.headers
        for name, value in headers
        if name == "dovetail-source"
    }
    verdict.counts["dead letters"] = len(letters)
    verdict.expect("messages that are poison", len(poison), world.poison)
    verdict.expect("positions of dead letters", sorted(letters), sorted(poison))


def _state(world: World, worker: Worker, verdict: Verdict) -> None:
    """Features of all that was ever asked for, at the end of time: from the store, and from all events in DuckDB.

    Values are compared and not what the store holds: which keys nobody needs have left it depends on the cut of polls.
    """
    project, stores = world.project, worker.stores
    requests = read_dataset(stores.registry, stores.offline, "requests")
    events = {name: _in_order(read_dataset(stores.registry, stores.offline, name)) for name in project.streams}
    sizes = {"requests": requests.num_rows, **{name: table.num_rows for name, table in events.items()}}
    if not all(sizes.values()):
        return verdict.expect("requests and events in the archive", sizes, "some")
    names = [name for name in requests.column_names if name not in OWN_COLUMNS]
    now = np.full(requests.num_rows, time_us(events["behaviour"], "event_time").max())
    probes = requests.select(names).set_column(
        names.index("request_time"), "request_time", pa.array(now).cast(pa.timestamp("us"))
    )
    flat = flatten_requests(probes)
    online = features_of(project, stores).serve(flat)
    items = pq.read_table(world.folder / "item.parquet")
    batch = project.evaluate(None, flat, events, tables={"item": items})
    streaming = [column.name for column in project.feature_set.columns_of("streaming")]
    verdict.counts["state values"] = flat.num_rows * len(streaming)
    verdict.counts["state values that are not NULL"] = sum(
        flat.num_rows - batch.column(n).null_count for n in streaming
    )
    verdict.expect("probes too old to be answered", int((~online.answerable).sum()), 0)
    wrong = [name for name in streaming if not _same(online.features.column(name), batch.column(name))]
    verdict.expect("features whose state differs from batch", wrong, [])
    return None


def _in_order(events: pa.Table) -> pa.Table:
    return events.sort_by([(name, "ascending") for name in OWN_COLUMNS]) if events.num_rows else events


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Bit for bit; NULL is NULL."""
    return bool(left.combine_chunks().equals(right.combine_chunks()))


def _model(world: World, broker: Broker, verdict: Verdict) -> None:
    """The trainer's last checkpoint, and a trainer that reads the samples once, undisturbed."""
    config = world.project.config
    if config.trainer.sharded:
        return _model_on_shards(world, broker, verdict)
    topic = config.labels.training_topic
    polls = broker.read(topic, config.topics()[topic])
    disturbed = _trainer(world, config.path(config.storage.state))
    ends = {poll.partition: poll.last + 1 for poll in polls}
    verdict.expect("the trainer's positions", disturbed.trained_through, ends)
    with tempfile.TemporaryDirectory() as fresh:
        undisturbed = _trainer(world, Path(fresh))
        asyncio.run(_train(undisturbed, polls))
        verdict.counts["trained"] = undisturbed.learner.trained
        verdict.expect("samples trained on", disturbed.learner.trained, undisturbed.learner.trained)
        if len(polls) == 1:  # with more, the order between partitions is nobody's promise
            same = np.array_equal(disturbed.learner.weights(), undisturbed.learner.weights())
            verdict.expect("the model's bits are those of one pass", same, True)
            verdict.counts["models compared"] = 1
    return None


def _model_on_shards(world: World, broker: Broker, verdict: Verdict) -> None:
    """The shards, and the trainer of mini-batches in one process, given the batches that are in the log."""
    config, model = world.project.config, world.project.config.model
    assert model is not None
    samples = sample_topic_of(config, model, world.project.feature_set.schema)
    learner, seen, batches = recipe_of(model).untrained(samples), SourceFilter(), f"{model.name}-batches"
    for poll in broker.read(batches, 1):
        for offset in poll.offsets.tolist():
            rows = samples.decode(poll.since(offset).before(offset + 1))
            learned(learner, rows.filter(pa.array(seen.admit(rows))), model.publish_every)
    stores = open_stores(config, read_only=True)
    try:
        archived = sum(file.rows for file in stores.registry.files("samples"))
        stages = {stage.name: stage for stage in trainer_stages(world.project, stores, TrainerListeners())}
        (shards,) = shard_stages(world.project, stores)
        evaluation = evaluation_of(stages)
        assert isinstance(shards, ShardStage)
        assert evaluation is not None
        verdict.counts["trained"] = learner.trained
        verdict.expect("samples in batches", learner.trained, archived)
        verdict.expect("samples predicted by the reducer", evaluation.samples, archived)
        kept = learner.optimizer.new_records(model.bits)
        for number in range(config.trainer.shards or 0):
            shard = shards.stored(number).shard
            verdict.expect(f"batches of shard {number} without errors", len(shard.pending), 0)
            gather_records(shard.ring, number, shard.records, kept)
        if config.trainer.staleness == 0:
            same = kept.tobytes() == learner.records.tobytes()
            verdict.expect("the model's bits are those of one process", same, True)
            verdict.expect("its metrics", evaluation.total(), learner.evaluation.total())
            verdict.counts["models compared"] = 1
    finally:
        stores.close()


def _trainer(world: World, folder: Path) -> TrainerStage:
    config = world.project.config
    model = config.model
    assert model is not None
    return TrainerStage(
        SampleTopic(config.labels.training_topic),
        recipe_of(model),
        checkpointing_of(model, folder / "checkpoints" / model.name),
        publication_of(model, ModelDirectory(folder / "models" / model.name), config.broker.max_message_bytes),
    )


async def _train(stage: TrainerStage, polls: list[Poll]) -> None:
    await stage.start()
    for poll in polls:
        async for work in stage.handle(poll):
            if work.commit is not None:
                await asyncio.to_thread(work.commit)
