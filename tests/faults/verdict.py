"""What must be true after any fault, when the workers have stopped in good order."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from broker import Broker
from world import World

from dovetail.features.request import flatten_requests
from dovetail.platform import wire
from dovetail.platform.app import assemble, features_of
from dovetail.platform.archive import read_dataset
from dovetail.platform.modelling import encoder_of, optimizer_of, trainer_options
from dovetail.platform.positions import OWN_COLUMNS, SourceFilter
from dovetail.platform.reports import audit_worker, consistency_of
from dovetail.platform.reports.join import difference, join_archived
from dovetail.platform.stage import Poll
from dovetail.trainer.publish import ModelDirectory
from dovetail.trainer.stage import TrainerStage

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
    verdict, project = Verdict(), world.project
    worker = assemble(project)
    try:
        stores = worker.stores
        features = features_of(project, stores)
        accounts = audit_worker(worker)
        verdict.expect("accounts that do not balance", list(accounts.unbalanced), [])

        joined = join_archived(project, stores, features)
        samples = difference(stores, joined)
        verdict.counts["samples"] = samples.compared
        verdict.expect("samples of the batch join that the stream has not", samples.only_batch, 0)
        verdict.expect("samples of the stream that the batch join has not", samples.only_stream, 0)
        verdict.expect("columns in which samples differ", samples.columns, {})
        archived = read_dataset(stores.registry, stores.offline, "samples")
        keys = archived.group_by(["request_id", "item_id"]).aggregate([]).num_rows if archived.num_rows else 0
        verdict.expect("distinct samples", keys, archived.num_rows)

        served = consistency_of(project, stores)
        verdict.counts["values"] = served.compared
        verdict.expect("served values that are not the recomputed ones", served.mismatched, 0)

        _everything_archived(world, worker, verdict, broker)
        _state_equals_batch(world, worker, verdict)
        _model_equals_one_pass(world, broker, verdict)
    finally:
        worker.stores.close()
    return verdict


def _everything_archived(world: World, worker: object, verdict: Verdict, broker: Broker) -> None:
    """Each request has one snapshot; each event is in the archive once; poison, and only that, is a dead letter."""
    project, stores = world.project, worker.stores  # type: ignore[attr-defined]
    snapshots = read_dataset(stores.registry, stores.offline, "snapshots")
    requests = snapshots.group_by("request_id").aggregate([]).num_rows if snapshots.num_rows else 0
    verdict.expect("requests answered", requests, world.counts["requests"])
    verdict.expect("snapshot rows archived", snapshots.num_rows, world.counts["snapshot_rows"])
    events = read_dataset(stores.registry, stores.offline, "behaviour")
    positions = events.group_by(list(OWN_COLUMNS[:3])).aggregate([]).num_rows if events.num_rows else 0
    verdict.expect("events archived", events.num_rows, world.counts["events"])
    verdict.expect("distinct positions of archived events", positions, events.num_rows)
    letters = broker.read(project.config.dead_letter_topic, 1)
    sources = {
        tuple(value for name, value in headers if name != "dovetail-reason")
        for poll in letters
        for headers in poll.headers
    }
    verdict.counts["dead letters"] = len(sources)


def _state_equals_batch(world: World, worker: object, verdict: Verdict) -> None:
    """Features served now, at the end of time, from the store, and the same computed in DuckDB from the archive."""
    project, stores = world.project, worker.stores  # type: ignore[attr-defined]
    requests = read_dataset(stores.registry, stores.offline, "requests")
    events = read_dataset(stores.registry, stores.offline, "behaviour")
    names = [name for name in requests.column_names if name not in OWN_COLUMNS]
    last = int(np.asarray(events.column("event_time").to_numpy(), dtype="datetime64[us]").astype(np.int64).max())
    now = pa.array(np.full(requests.num_rows, last), pa.int64()).cast(pa.timestamp("us"))
    where = names.index("request_time")
    probes = requests.select(names).set_column(where, "request_time", now)
    flat = flatten_requests(probes)
    flat = flat[0] if isinstance(flat, tuple) else flat
    online = features_of(project, stores).serve(flat)
    streaming = [column.name for column in project.feature_set.columns_of("streaming")]
    order = [(name, "ascending") for name in OWN_COLUMNS[:3]]
    tables = {"item": pa.table({})}
    del tables
    batch = project.evaluate(None, flat, {"behaviour": events.sort_by(order)}, tables=_items(world))
    verdict.counts["state values"] = flat.num_rows * len(streaming)
    verdict.expect("probes too old to be answered", int((~online.answerable).sum()), 0)
    wrong = [
        name
        for name in streaming
        if not online.features.column(name).combine_chunks().equals(batch.column(name).combine_chunks())
    ]
    verdict.expect("features whose state differs from batch", wrong, [])


def _items(world: World) -> dict[str, pa.Table]:
    import pyarrow.parquet as pq

    return {"item": pq.read_table(world.folder / "item.parquet")}


def _model_equals_one_pass(world: World, broker: Broker, verdict: Verdict) -> None:
    """The trainer's last checkpoint, and a trainer that reads the samples once, undisturbed."""
    config = world.project.config
    model = config.model
    assert model is not None

    def trainer(folder: Path) -> TrainerStage:
        return TrainerStage(
            config.labels.training_topic,
            encoder_of(model),
            optimizer_of(model),
            folder / "checkpoints" / model.name,
            ModelDirectory(folder / "models" / model.name),
            decode=wire.decode_arrow,
            label="label",
            weight="weight",
            **trainer_options(model),
        )

    polls = broker.read(config.labels.training_topic, config.topics()[config.labels.training_topic])
    disturbed = trainer(config.path(config.storage.state))
    ends = {poll.partition: poll.last + 1 for poll in polls}
    verdict.expect("the trainer's positions", dict(disturbed.trained_through), ends)
    with tempfile.TemporaryDirectory() as fresh:
        undisturbed = trainer(Path(fresh))
        asyncio.run(_train(undisturbed, polls))
        verdict.counts["trained"] = undisturbed.learner.trained
        verdict.expect("samples trained on", disturbed.learner.trained, undisturbed.learner.trained)
        if len(polls) == 1:  # with more, the order between partitions is nobody's promise
            same = np.array_equal(disturbed.learner.weights(), undisturbed.learner.weights())
            verdict.expect("the model's bits are those of one pass", same, True)
        rows = wire.decode_arrow(polls[0]) if polls else pa.table({})
        admitted = int(SourceFilter().admit(rows).sum()) if polls else 0
        if len(polls) == 1:
            verdict.expect("samples in the topic, each once", admitted, undisturbed.learner.trained)


async def _train(stage: TrainerStage, polls: list[Poll]) -> None:
    await stage.start()
    for poll in polls:
        async for work in stage.handle(poll):
            if work.commit is not None:
                await asyncio.to_thread(work.commit)
