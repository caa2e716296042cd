"""What a learner refuses to learn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ModelError, WireError
from dovetail.trainer import preparing as preparing_module
from dovetail.trainer.learner import Learner


def test_null_labels_and_weights_are_refused_with_their_row(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    table = samples(4)
    holed = table.set_column(3, "clicked", pa.array([True, None, False, None]))
    with pytest.raises(WireError, match=r"label column 'clicked' is NULL or NaN at row 1 \(2 such rows in the table\)"):
        new_learner().learn(holed)
    holed = table.set_column(4, "importance", pa.array([1.0, 1.0, np.nan, 1.0]))
    with pytest.raises(WireError, match="sample weight column 'importance' is NULL or NaN at row 2"):
        new_learner().learn(holed)


def test_a_label_of_another_type_or_value_is_refused(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    table = samples(2)
    with pytest.raises(WireError, match="'clicked' is string, which has no numeric value"):
        new_learner().learn(table.set_column(3, "clicked", pa.array(["yes", "no"])))
    with pytest.raises(ModelError, match=r"its label is 2\.0; labels must be 0 or 1"):
        new_learner().learn(table.set_column(3, "clicked", pa.array([0, 2])))


def test_integer_and_boolean_labels_mean_the_same(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    table = samples(50)
    one, other = new_learner(), new_learner()
    one.learn(table)
    other.learn(table.set_column(3, "clicked", table.column("clicked").cast(pa.int8())))
    assert one.records.tobytes() == other.records.tobytes()


def test_published_weights_are_the_non_zero_ones(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    learner = new_learner()
    assert len(learner.weights().slots) == 0
    learner.learn(samples(50))
    slots, weights = learner.weights()
    assert (weights != 0).all()
    assert (np.diff(slots.astype(np.int64)) > 0).all()
    dense = np.zeros(len(learner.records), np.float32)
    dense[slots] = weights
    assert dense.tobytes() == learner.records[:, 0].tobytes()


def test_the_size_of_blocks_changes_no_bit(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = samples(300)
    whole, blocks = new_learner(), new_learner()
    together = whole.learn(table)
    monkeypatch.setattr(preparing_module, "_BLOCK", 7)
    assert blocks.learn(table).tobytes() == together.tobytes()
    assert blocks.records.tobytes() == whole.records.tobytes()
    assert blocks.evaluation.total() == whole.evaluation.total()


def test_a_refused_example_is_named_with_its_block(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = samples(30)
    weights = pa.array([1.0] * 22 + [-1.0] + [1.0] * 7)
    table = table.set_column(table.column_names.index("importance"), "importance", weights)
    monkeypatch.setattr(preparing_module, "_BLOCK", 10)
    with pytest.raises(ModelError, match=r"rows 20 to 29 of the table: example 2 of this batch was refused: .* -1.0"):
        new_learner().learn(table)


def test_what_is_encoded_in_a_room_equals_what_is_encoded_without(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    encoder = new_learner().encoder
    room = encoder.room(20)
    for rows in (20, 3, 21, 16, 0):
        table = samples(rows)
        own, shared = encoder.encode(table), encoder.encode(table, room=room)
        assert (own.slots == shared.slots).all()
        assert (own.values == shared.values).all()
        assert shared.slots.flags.c_contiguous
        assert shared.values.flags.c_contiguous


def test_the_halves_are_the_learner(samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]) -> None:
    table, whole, halves = samples(300), new_learner(), new_learner()
    whole.learn(table)
    preparation, evaluator = halves.preparation, halves.evaluator
    for at in range(0, 300, 70):
        for part in preparation.prepare(table.slice(at, 70)):
            predicted = halves.optimizer.train(halves.records, part.encoded, part.labels, part.learnt)
            evaluator.add(part.table, predicted, part.labels, part.weights)
    resumed = evaluator.resumed(evaluator.state())
    assert halves.records.tobytes() == whole.records.tobytes()
    assert preparation.moments.tobytes() == whole.moments.tobytes()
    assert preparation.prepared == whole.trained == 300
    assert resumed.metrics() == whole.metrics()
    assert evaluator.columns <= set(table.column_names)
