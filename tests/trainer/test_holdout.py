"""A model that holds requests out is, to the bit, that of the other samples, and is judged by what it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.trainer.batch_training import Schedule, train_passes
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.models.checkpoint import CheckpointStore, TrainerProgress, image, resume
from dovetail.trainer.optimizers import optimizer_named
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.samples.holdout import Holdout
from dovetail.trainer.slots import SlotPolicy

ENCODER = Encoder([InputSpec("city"), InputSpec("price", "standardised")], bits=6)


def samples(requests: int, seed: int = 1) -> pa.Table:
    """Three candidates a request."""
    rng, n = np.random.default_rng(seed), 3 * requests
    return pa.table({
        "request_id": [f"r{seed}-{row // 3}" for row in range(n)],
        "city": [f"c{city}" for city in rng.integers(0, 9, n)],
        "price": rng.normal(5, 3, n),
        "label": pa.array(rng.integers(0, 2, n), pa.int8()),
        "weight": rng.random(n).astype(np.float32),
    })  # fmt: skip


def learner(share: float, name: str = "ftrl", slots: SlotPolicy | None = None) -> Learner:
    groups = Groups(slices=("holdout",)) if share else Groups()
    return Learner(
        ENCODER, optimizer_named(name, {}), label="label", weight="weight", groups=groups, slots=slots,
        holdout=Holdout.of(share),
    )  # fmt: skip


@given(
    st.sampled_from([0.0, 0.05, 0.5, 0.99]),
    st.sampled_from(["ftrl", "ogd", "adagrad", "adamom"]),
    st.sampled_from([None, SlotPolicy(admit_after=2)]),
    st.sampled_from([0, 7]),
)
def test_the_weights_are_those_of_a_model_that_never_saw_what_is_held_out(
    share: float, name: str, slots: SlotPolicy | None, batch: int
) -> None:
    table = samples(60)
    _, held = Holdout.of(share).mark(table)
    whole, others = learner(share, name, slots), learner(0.0, name, slots)
    if batch:
        for start in range(0, 180, batch):
            whole.learn_batch(table.slice(start, batch))
            others.learn_batch(table.slice(start, batch).filter(pa.array(~held[start : start + batch])))
    else:
        whole.learn(table)
        others.learn(table.filter(pa.array(~held)))
    assert whole.records.tobytes() == others.records.tobytes()
    assert whole.moments.tobytes() == others.moments.tobytes()
    assert whole.trained == 180


def test_metrics_are_told_by_whether_a_request_is_held_out() -> None:
    table = samples(400)
    _, held = Holdout.of(0.25).mark(table)
    model = learner(0.25)
    predictions = model.learn(table)
    told = {scope: metrics for scope, metrics in model.metrics() if scope.startswith("slice:")}
    assert {scope: one.samples for scope, one in told.items()} == {
        "slice:holdout=held": held.sum(), "slice:holdout=trained": (~held).sum()
    }  # fmt: skip
    alone = Learner(ENCODER, model.optimizer, label="label", weight="weight").evaluation
    weights, labels = (table.column(name).to_numpy()[held].astype(np.float32) for name in ("weight", "label"))
    alone.add(predictions[held], labels, weights)
    assert told["slice:holdout=held"].log_loss == pytest.approx(alone.total().log_loss, rel=1e-9)


def test_a_share_is_met_and_a_larger_one_holds_the_same_requests_and_more() -> None:
    table = pa.table({"request_id": [f"q{number}" for number in range(20_000)]})
    _, few = Holdout.of(0.05).mark(table)
    _, more = Holdout.of(0.2).mark(table)
    assert few.mean() == pytest.approx(0.05, abs=0.006)  # four deviations
    assert more.mean() == pytest.approx(0.2, abs=0.012)
    assert not (few & ~more).any()
    # Whatever type the ids have on the way, and however the table is cut.
    kinds = (pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
    for type_ in kinds:
        _, again = Holdout.of(0.05).mark(table.cast(pa.schema([("request_id", type_)])))
        assert (again == few).all()
    cut = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert (Holdout.of(0.05).mark(cut)[1] == few).all()


def test_all_candidates_of_a_request_share_its_fate() -> None:
    _, held = Holdout.of(0.3).mark(samples(200))
    by_request = held.reshape(200, 3)
    assert (by_request == by_request[:, :1]).all()


def test_a_checkpoint_goes_on_with_the_same_share_only(tmp_path: Path) -> None:
    first, through = learner(0.25), learner(0.25)
    store = CheckpointStore(tmp_path)
    first.learn(samples(50))
    store.save(image(first, TrainerProgress({}, {}, ()), {}), after=0)
    kept = store.latest()
    assert kept is not None
    resumed = resume(kept, learner(0.25), {})
    resumed.learn(samples(50, seed=2))
    through.learn(samples(50))
    through.learn(samples(50, seed=2))
    assert resumed.records.tobytes() == through.records.tobytes()
    with pytest.raises(ModelError, match="holdout"):
        resume(kept, learner(0.5), {})


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="holdout: 1 is no share"):
        Holdout.of(1.0)
    with pytest.raises(WireError, match="lacks the column 'request_id' that the holdout goes by"):
        learner(0.1).learn(samples(3).drop_columns("request_id"))


def test_many_passes_hold_the_same_requests_out() -> None:
    model = learner(0.5)
    train_passes(model, lambda: [samples(30)], Schedule(3, 0, 0, 0, 0))
    _, held = Holdout.of(0.5).mark(samples(30))
    others = learner(0.0)
    train_passes(others, lambda: [samples(30).filter(pa.array(~held))], Schedule(3, 0, 0, 0, 0))
    assert model.records.tobytes() == others.records.tobytes()
