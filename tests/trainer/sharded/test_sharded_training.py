"""A model on shards is the model of one process, bit for bit; late, repeated and reordered messages break no bound."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.trainer.learner import Weights
from dovetail.trainer.modes import train_batch
from dovetail.trainer.optimizers import AdaGrad, AdaMom, DelayCompensated, Ftrl, Ogd, Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.assembly import Assembly, place_again
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchMessage, ModelPiece, decode, encode
from dovetail.trainer.sharded.one_process import ShardedTrainer
from dovetail.trainer.sharded.reducer import Reducer
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.shard import Shard
from dovetail.trainer.sharded.splitter import Splitter
from tests.generated import tries
from tests.trainer.sharded.workers import BITS, Workers, some_batches

OPTIMIZERS = (Ftrl(l1=0.02, l2=0.1), AdaGrad(l2=0.01), AdaMom(), Ogd(), DelayCompensated(Ftrl()))
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)


@every_optimizer
@pytest.mark.parametrize("shards", [1, 2, 4, 7])
@settings(max_examples=tries(6))
@given(seed=st.integers(0, 2**32))
def test_synchronous_shards_are_one_process_bit_for_bit(optimizer: Optimizer, shards: int, seed: int) -> None:
    require_one_process(Workers(optimizer, shards, staleness=0), seed)


def require_one_process(workers: Workers, seed: int) -> None:
    """Batches that these workers are dealt make the model of one process, with messages in an order from ``seed``."""
    order, optimizer = Random(seed), workers.optimizer
    one = optimizer.new_records(BITS)
    expected = []
    for number, batch in enumerate(some_batches(8, seed), 1):
        expected.append(train_batch(optimizer, one, *batch))
        workers.deal(batch, version=number if number % 4 == 0 else 0)
        if number == 4:
            at_4 = one[:, 0].copy()
    workers.run(order.randrange, lambda: order.random() < 0.2)
    assert workers.records().tobytes() == one.tobytes()
    assert [workers.predictions[number + 1].tobytes() for number in range(8)] == [p.tobytes() for p in expected]
    assert set(workers.lacked.values()) == {0}
    for version, dense in ((4, at_4), (8, one[:, 0])):
        assert workers.versions[version].slots.tolist() == np.flatnonzero(dense).tolist()
        assert workers.versions[version].weights.tobytes() == dense[dense != 0].tobytes()


@pytest.mark.parametrize("staleness", [0, 1, 4, None])
@settings(max_examples=tries(25))
@given(seed=st.integers(0, 2**32), shards=st.integers(1, 5))
def test_the_bound_holds_however_messages_are_delayed(staleness: int | None, seed: int, shards: int) -> None:
    require_bound(Workers(AdaGrad(), shards, staleness), seed)


def require_bound(workers: Workers, seed: int) -> None:
    """No answer lacks more batches than the bound lets, by the trace, with messages in an order from ``seed``."""
    order, staleness = Random(seed), workers.staleness
    for batch in some_batches(12, seed, rows=3):
        workers.deal(batch)
    workers.run(order.randrange, lambda: order.random() < 0.3)
    lacked = Counter(workers.lacked.values())
    assert len(workers.lacked) == 12 * workers.shards
    assert min(lacked) >= 0
    assert max(lacked) <= (11 if staleness is None else staleness)
    assert all(shard.answered == shard.applied == 12 and not shard.state().pending for shard in workers.members)
    assert sorted(workers.predictions) == list(range(1, 13))


def test_without_a_bound_a_shard_waits_for_nothing_and_with_one_for_no_more_than_it_must() -> None:
    batches = some_batches(6, 1)
    for staleness, answered in ((None, 6), (3, 4), (0, 1)):
        shard = Shard(Ring(1, BITS), 0, AdaGrad(), staleness)
        splitter = Splitter(shard.ring)
        sent = [shard.take(splitter.split(*batch).parts[0]) for batch in batches]
        assert [len(each) for each in sent] == [1] * answered + [0] * (6 - answered)
        assert len(shard.take(BatchErrors(1, np.zeros(24, np.float32)))) == (0 if staleness is None else 1)


@settings(max_examples=tries(15))
@given(
    seed=st.integers(0, 2**32),
    shards=st.integers(1, 4),
    kills=st.lists(st.integers(0, 120), max_size=4),
)
def test_a_shard_that_dies_goes_on_from_its_state(seed: int, shards: int, kills: list[int]) -> None:
    optimizer = Ftrl(l1=0.02)
    order, workers = Random(seed), Workers(optimizer, shards, staleness=0)
    one = optimizer.new_records(BITS)
    for batch in some_batches(8, seed):
        train_batch(optimizer, one, *batch)
        workers.send(workers.splitter.split(*batch))
    stored = [shard.state() for shard in workers.members]
    step = 0
    while workers.boxes:
        workers.deliver(order.randrange(len(workers.boxes)))
        step += 1
        if step % 7 == 0:
            kept = order.randrange(shards)
            stored[kept] = workers.members[kept].state()
        if step in kills:
            dead = order.randrange(shards)
            workers.members[dead] = Shard.resumed(workers.ring, dead, optimizer, 0, stored[dead])
            stored[dead] = workers.members[dead].state()
            # What lay in its memory is gone; its topics are read again, of which the state may have most.
            workers.boxes = [box for box in workers.boxes if box[0] != dead]
            for data in list(workers.log[dead]):
                workers.hand_over(dead, data)
    assert workers.records().tobytes() == one.tobytes()


def test_a_state_has_the_weights_that_were_answered() -> None:
    optimizer = DelayCompensated(AdaGrad(), 0.5)
    batches = some_batches(5, 3)

    def run(*, dies: bool) -> bytes:
        ring = Ring(1, BITS)
        splitter, reducer, shard = Splitter(ring), Reducer(), Shard(ring, 0, optimizer, 2)
        late = []
        for batch in batches:
            split = splitter.split(*batch)
            (answer,) = shard.take(split.parts[0])
            (reduced, *_) = [*reducer.take(split.header), *reducer.take(answer)]  # type: ignore[arg-type]
            late.append(reduced.errors)
            if len(late) > 2:
                shard.take(late.pop(0))
            if dies:
                shard = Shard.resumed(ring, 0, optimizer, 2, shard.state())
        for errors in late:
            shard.take(errors)
        return shard.records.tobytes()

    assert run(dies=True) == run(dies=False)


def test_shards_added_between_two_batches_change_no_bit() -> None:
    optimizer = AdaMom()
    batches = some_batches(8, 5)
    one = optimizer.new_records(BITS)
    for batch in batches:
        train_batch(optimizer, one, *batch)
    first, second = Workers(optimizer, 3, 0), Workers(optimizer, 5, 0)
    for workers, part in ((first, batches[:4]), (second, batches[4:])):
        for batch in part:
            workers.send(workers.splitter.split(*batch))
        workers.run(Random(1).randrange)
        if workers is first:
            placed = place_again(first.ring, second.ring, [shard.records for shard in first.members])
            second.members = [Shard(second.ring, shard, optimizer, 0, records) for shard, records in enumerate(placed)]
    assert second.records().tobytes() == one.tobytes()


@pytest.mark.parametrize("staleness", [0, 3, None])
def test_in_one_process_everything_is_as_late_as_it_may_be(staleness: int | None) -> None:
    optimizer, batches = AdaGrad(), some_batches(60, 2)
    trained = []
    for _ in range(2):
        records = optimizer.new_records(BITS)
        trainer = ShardedTrainer(records, optimizer, shards=3, staleness=staleness, seed=7)
        predictions = [trainer.train(*batch) for batch in batches]
        trainer.finish()
        trained.append((records.tobytes(), [p.tobytes() for p in predictions]))
    assert trained[0] == trained[1]
    assert sum(trainer.staleness_seen.values()) == 60
    if staleness is None:
        assert len(trainer.staleness_seen) > 5
    else:
        assert trainer.staleness_seen[staleness] == 60 - staleness


def test_slots_are_forgotten_where_they_are() -> None:
    optimizer, (first, second) = AdaGrad(), some_batches(2, 4)
    one, other = optimizer.new_records(BITS), optimizer.new_records(BITS)
    trainer = ShardedTrainer(other, optimizer, shards=4)
    train_batch(optimizer, one, *first)
    trainer.train(*first)
    gone = np.unique(first[0].slots)[::2]
    one[gone] = optimizer.blank()
    trainer.forget(gone)
    train_batch(optimizer, one, *second)
    trainer.train(*second)
    trainer.finish()
    assert one.tobytes() == other.tobytes()


def test_messages_come_back_as_they_were() -> None:
    splitter = Splitter(Ring(3, BITS))
    splitter.forget(np.arange(40, dtype=np.uint32))
    (encoded, labels, weights) = some_batches(1, 6)[0]
    mixed = splitter.split(encoded, labels, weights, version=3)
    ones = splitter.split(Encoded(encoded.slots, np.ones_like(encoded.values)), labels, weights)
    assert ones.header.columns.tolist() == []
    assert all(part.values is None for part in ones.parts)
    assert sum(len(part.forgotten) for part in mixed.parts) == 40
    piece = ModelPiece(2, 1, np.array([3], np.uint32), np.array([0.5], np.float32))
    messages: list[BatchMessage] = [
        mixed.header, *mixed.parts, ones.header, *ones.parts, BatchErrors(9, labels), piece,
    ]  # fmt: skip
    for message in messages:
        again = decode(encode(message))
        assert type(again) is type(message)
        for mine, theirs in zip(message, again, strict=True):
            assert np.asarray(mine).tolist() == np.asarray(theirs).tolist()
    with pytest.raises(WireError, match="a message of 5 bytes is none of a sharded model's"):
        decode(b"hello")


def test_versions_are_given_out_whole_and_in_order() -> None:
    def piece(version: int, shard: int) -> ModelPiece:
        slots = np.array([10 - shard, 20 + 2 * version + shard], np.uint32)
        return ModelPiece(version, shard, slots, np.array([version, shard], np.float32))

    assembly = Assembly(2)
    assert assembly.take(piece(1, 0)) is None
    assert assembly.take(piece(1, 0)) is None
    assert assembly.take(piece(2, 1)) is None
    done = assembly.take(piece(2, 0))
    assert done is not None
    version, weights = done
    assert (version, weights.slots.tolist(), weights.weights.tolist()) == (2, [9, 10, 24, 25], [2, 2, 0, 1])
    assert isinstance(weights, Weights)
    # Version 1 can be whole now, and is older than what serves.
    assert assembly.take(piece(1, 1)) is None
    assert assembly.given == 2


@every_optimizer
def test_a_refused_example_trains_nothing_of_its_batch(optimizer: Optimizer) -> None:
    (encoded, labels, weights) = some_batches(1, 8)[0]
    wrong = labels.copy()
    wrong[5] = 3.0
    one, other = optimizer.new_records(BITS), optimizer.new_records(BITS)
    trainer = ShardedTrainer(other, optimizer, shards=3)
    with pytest.raises(ModelError, match=r"batch 1, example 5: .*its label is 3.0; labels must be 0 or 1"):
        trainer.train(encoded, wrong, weights)
    trainer.finish()
    assert one.tobytes() == other.tobytes()


def test_machines_that_do_not_fit_are_refused() -> None:
    batch = some_batches(1, 9)[0]
    ring = Ring(2, BITS)
    shard = Shard(ring, 0, AdaGrad(), 0)
    split = Splitter(ring).split(*batch)
    with pytest.raises(ModelError, match="shard 0 was sent the part of shard 1"):
        shard.take(split.parts[1])
    with pytest.raises(ModelError, match=r"which keeps .*; splitter and shard have different rings"):
        shard.take(split.parts[0]._replace(slots=split.parts[0].slots + np.uint32(1 << BITS)))
    outside = batch[0].slots | np.uint32(1 << BITS)
    with pytest.raises(ModelError, match=r"cannot split: slot \d+ is outside the 512 of the ring"):
        Splitter(ring).split(Encoded(outside, batch[0].values), *batch[1:])
    with pytest.raises(ModelError, match="need one or more examples"):
        Splitter(ring).split(batch[0], batch[1][:3], batch[2])
    with pytest.raises(ConfigError, match="has no shard 2"):
        Shard(ring, 2, AdaGrad(), 0)
    with pytest.raises(ConfigError, match="staleness is a number of batches, 0 or more"):
        Shard(ring, 1, AdaGrad(), -1)
    with pytest.raises(ModelError, match="take them by this ring"):
        Shard(ring, 1, AdaGrad(), 0, AdaGrad().new_records(3))
    reducer = Reducer()
    reducer.take(split.header)
    answer = Shard(ring, 1, AdaGrad(), 0).take(split.parts[1])[0]
    reducer.take(answer._replace(shard=0))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="splitter and shards have different rings"):
        reducer.take(answer)  # type: ignore[arg-type]
    fresh = Shard(ring, 0, AdaGrad(), 0)
    fresh.take(split.parts[0])
    with pytest.raises(ModelError, match="batch 1 has 24 examples here, and 2 errors came back"):
        fresh.take(BatchErrors(1, np.zeros(2, np.float32)))
