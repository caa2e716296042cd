"""A model by samples is the model of one process, bit for bit; late, repeated and reordered messages break no bound."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ModelError
from dovetail.trainer.losses import loss_code
from dovetail.trainer.modes import train_batch
from dovetail.trainer.optimizers import AdaGrad, AdaMom, DelayCompensated, Ftrl, Ogd, Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchPart, PartWeights, decode, encode
from dovetail.trainer.sharded.dealt_rows import BatchPredictions, BatchSamples
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.sample_worker import SampleWorker, worker_of
from dovetail.trainer.sharded.shard import Shard
from tests.generated import tries
from tests.trainer.sharded.test_sharded_training import require_bound, require_one_process
from tests.trainer.sharded.workers import BITS, WorkersBySamples, some_batches

OPTIMIZERS = (Ftrl(l1=0.02, l2=0.1), AdaGrad(l2=0.01), AdaMom(), Ogd())
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)


@every_optimizer
@pytest.mark.parametrize("shards", [1, 2, 4, 7])
@settings(max_examples=tries(6))
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 5))
def test_synchronous_workers_are_one_process_bit_for_bit(
    optimizer: Optimizer, shards: int, seed: int, workers: int
) -> None:
    require_one_process(WorkersBySamples(optimizer, shards, staleness=0, workers=workers), seed)


@pytest.mark.parametrize("staleness", [0, 1, 4, None])
@settings(max_examples=tries(25))
@given(seed=st.integers(0, 2**32), shards=st.integers(1, 5), workers=st.integers(1, 5))
def test_the_bound_holds_however_messages_are_delayed(
    staleness: int | None, seed: int, shards: int, workers: int
) -> None:
    require_bound(WorkersBySamples(DelayCompensated(AdaGrad()), shards, staleness, workers=workers), seed)


def test_as_many_workers_as_the_bound_lets_are_at_work_at_once() -> None:
    batches = some_batches(8, 1)
    for staleness, asked in ((0, 1), (3, 4), (None, 8)):
        there = WorkersBySamples(AdaGrad(), 2, staleness, workers=4)
        for batch in batches:
            there.deal(batch)
        while there.boxes and there.boxes[0][0] < -1 and there.boxes[0][1].isdigit():
            there.deliver(0)  # every worker begins all of its batches
        while any(to >= 0 for to, _ in there.boxes):
            there.deliver(next(at for at, (to, _) in enumerate(there.boxes) if to >= 0))
        assert len(there.boxes) == 2 * asked


@settings(max_examples=tries(15))
@given(
    seed=st.integers(0, 2**32),
    shards=st.integers(1, 4),
    workers=st.integers(1, 4),
    kills=st.lists(st.integers(0, 120), max_size=4),
)
def test_a_worker_that_dies_goes_on_from_what_was_done(seed: int, shards: int, workers: int, kills: list[int]) -> None:
    optimizer = Ftrl(l1=0.02)
    order, there = Random(seed), WorkersBySamples(optimizer, shards, staleness=0, workers=workers)
    one = optimizer.new_records(BITS)
    for batch in some_batches(10, seed):
        train_batch(optimizer, one, *batch)
        there.deal(batch)
    done = [0] * workers
    step = 0
    while there.boxes:
        there.deliver(order.randrange(len(there.boxes)))
        step += 1
        if step % 7 == 0:
            kept = order.randrange(workers)
            done[kept] = there.at_work[kept].done
        if step in kills:
            dead = order.randrange(workers)
            there.at_work[dead] = SampleWorker(there.ring, dead, workers, done=done[dead])
            there.boxes = [box for box in there.boxes if box[0] != -2 - dead]
            for data in list(there.sent[dead]):
                there.hand_over(-2 - dead, data)
    assert there.records().tobytes() == one.tobytes()


@every_optimizer
def test_where_no_weight_has_moved_nothing_is_compensated(optimizer: Optimizer) -> None:
    plain = WorkersBySamples(optimizer, 3, staleness=0, workers=2)
    compensated = WorkersBySamples(DelayCompensated(optimizer, 0.5), 3, staleness=0, workers=2)
    for there in (plain, compensated):
        for batch in some_batches(6, 4):
            there.deal(batch)
        there.run(Random(1).randrange)
    assert plain.records().tobytes() == compensated.records().tobytes()


def test_what_has_moved_since_it_was_asked_for_is_compensated() -> None:
    found = []
    for strength in (0.0, 0.5):
        there = WorkersBySamples(DelayCompensated(AdaGrad(), strength), 2, staleness=3, workers=4)
        for batch in some_batches(8, 4):
            there.deal(batch)
        there.run(Random(3).randrange)
        assert max(there.lacked.values()) > 0
        found.append(there.records().tobytes())
    assert found[0] != found[1]


@pytest.mark.parametrize("loss", ["squared", "poisson"])
def test_other_losses_are_those_of_one_process(loss: str) -> None:
    optimizer, ring = AdaGrad(), Ring(3, BITS)
    one, code = optimizer.new_records(BITS), loss_code(loss)
    worker = SampleWorker(ring, 0, 1, loss=code)
    shards = [Shard(ring, number, optimizer, 0) for number in range(3)]
    for number, (encoded, labels, weights) in enumerate(some_batches(4, 7), 1):
        expected = train_batch(optimizer, one, encoded, labels * 3, weights, code)
        parts = worker.begin(number, encoded, labels * 3, weights)
        answers = [answer for part in parts for answer in shards[part.shard].take(part)]
        (computed,) = [
            each for answer in answers if isinstance(answer, PartWeights) for each in worker.take(answer)
        ]  # fmt: skip
        assert computed.predictions.tobytes() == expected.tobytes()
        for shard, errors in zip(shards, computed.errors, strict=True):
            shard.take(errors)
    assert np.concatenate([np.sort(shard.records[:, 0]) for shard in shards]).size == 1 << BITS
    for shard in shards:
        slots = ring.globals_of(shard.number, np.arange(len(shard.records), dtype=np.uint32))
        assert shard.records.tobytes() == one[slots].tobytes()


def test_each_slot_goes_over_the_network_once() -> None:
    encoded, labels, weights = some_batches(1, 2, rows=200)[0]
    there = np.unique(encoded.slots[encoded.values != 0])
    ring = Ring(4, BITS)
    parts = SampleWorker(ring, 0, 1).begin(1, encoded, labels, weights)
    asked = np.concatenate([ring.globals_of(part.shard, part.slots) for part in parts])
    assert sorted(asked.tolist()) == there.tolist()
    again = [decode(encode(part)) for part in parts]
    for part, back in zip(parts, again, strict=True):
        assert isinstance(back, BatchPart)
        assert back.slots.tolist() == part.slots.tolist()
        assert (back.number, back.shard, back.offsets, back.values, back.version) == (1, part.shard, None, None, 0)
    assert sum(len(encode(part)) for part in parts) < 4 * (len(there) + 4 * 200)


def test_batches_go_round() -> None:
    assert [worker_of(number, 3) for number in range(1, 8)] == [0, 1, 2, 0, 1, 2, 0]
    ring = Ring(1, BITS)
    for done in range(9):
        for number in range(4):
            first = next(batch for batch in range(done + 1, 20) if worker_of(batch, 4) == number)
            assert SampleWorker(ring, number, 4, done=done).next == first


def test_messages_come_back_as_they_were() -> None:
    moments = np.array([[1.0, 0.1, -0.0], [np.inf, 3e-320, 7.0]])
    for content, chosen in (
        (b"\x00rows\xff", None),
        (b"rows", np.array([1, 5], np.int32)),
        (b"", np.empty(0, np.int32)),
    ):
        again = decode(encode(BatchSamples(7, content, chosen, moments, 3)))
        assert isinstance(again, BatchSamples)
        assert (again.number, again.content, again.version, again.moments.tobytes()) == (
            7, content, 3, moments.tobytes(),
        )  # fmt: skip
        assert (None if again.chosen is None else again.chosen.tolist()) == (
            None if chosen is None else chosen.tolist()
        )
    made = BatchPredictions(2, np.array([0.25, 0.5], np.float32), np.array([0, 1], np.float32))
    assert [np.asarray(each).tolist() for each in decode(encode(made))] == [np.asarray(each).tolist() for each in made]


@every_optimizer
def test_a_refused_example_trains_nothing_of_its_batch(optimizer: Optimizer) -> None:
    (encoded, labels, weights) = some_batches(1, 8)[0]
    wrong = labels.copy()
    wrong[5] = 3.0
    there = WorkersBySamples(optimizer, 3, staleness=0)
    there.deal((encoded, wrong, weights))
    with pytest.raises(ModelError, match=r"batch 1: example 5 .*its label is 3.0; labels must be 0 or 1"):
        there.run(lambda _: 0)
    assert there.records().tobytes() == optimizer.new_records(BITS).tobytes()
    values = encoded.values.copy()
    values[3, 1] = np.nan
    again = WorkersBySamples(optimizer, 3, staleness=0)
    again.deal((Encoded(encoded.slots, values), labels, weights))
    with pytest.raises(ModelError, match=r"batch 1: example 3 .*its input values are not finite"):
        again.run(lambda _: 0)


def test_who_does_not_fit_is_refused() -> None:
    batch = some_batches(1, 9)[0]
    ring = Ring(2, BITS)
    with pytest.raises(ModelError, match="worker 0 of 2 was dealt batch 2, which is of worker 1; partitions differ"):
        SampleWorker(ring, 0, 2).begin(2, *batch)
    worker, shard = SampleWorker(ring, 0, 1), Shard(ring, 0, AdaGrad(), 0)
    parts = worker.begin(1, *batch)
    (answer,) = shard.take(parts[0])
    assert isinstance(answer, PartWeights)
    worker.take(answer)
    with pytest.raises(ModelError, match=r"\[0, 1\] answered .*; worker and shards have different rings"):
        worker.take(answer._replace(shard=1, weights=np.zeros(1, np.float32)))
    with pytest.raises(ModelError, match=r"batch 1 has \d+ slots here, and 2 errors came back"):
        shard.take(BatchErrors(1, np.zeros(2, np.float32)))
