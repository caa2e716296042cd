"""Each sample is scored by the newest model that is old enough, of what was known when that model was made."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Int64
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.staleness import Staleness, losses_by_age
from tests.generated import tries

INPUTS = [InputSpec("city"), InputSpec("price", "standardised")]
STEP = 10


def learner() -> Learner:
    return Learner(Encoder(INPUTS, 8), Ftrl(alpha=0.3, l2=0.1), label="label", weight="weight")


def samples(n: int, seed: int, *, span: int = 1_000) -> pa.Table:
    """Samples over ``span`` microseconds; which city sells turns half-way."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, span, n))
    city = rng.integers(0, 4, n)
    likely = np.where((city < 2) == (times < span // 2), 0.8, 0.1)
    return pa.table(
        {
            "request_time": pa.array(times, pa.timestamp("us")),
            "request_id": [f"r{number // 4}" for number in range(n)],
            "city": [f"c{c}" for c in city],
            "price": rng.exponential(10, n),
            "label": pa.array((rng.random(n) < likely).astype(np.int8)),
            "weight": rng.integers(1, 4, n).astype(np.float32),
            "delay": rng.choice([0, 7, 40], n),
        }
    )


def delays(table: pa.Table) -> Int64:
    return np.asarray(table.column("delay").to_numpy(), np.int64)


def replayed(table: pa.Table, ages: list[int], cuts: list[int] | None = None) -> Staleness:
    bounds = [0, *sorted(cuts or []), table.num_rows]
    tables = (table.slice(a, b - a) for a, b in pairwise(bounds))
    ranking = RankingPolicy("request_id")
    return losses_by_age(tables, learner(), ages, step_us=STEP, known_after=delays, ranking=ranking)


def by_hand(table: pa.Table, age: int, first: int) -> Evaluation:
    """For each sample a model of its own, trained from nothing on what was known by its version."""
    times = table.column("request_time").cast(pa.int64()).to_numpy()
    known = times + delays(table)
    grid = np.maximum(-(-known // STEP) * STEP, -(-known[0] // STEP) * STEP)
    evaluation = Evaluation()
    for row in np.flatnonzero(times >= first):
        version = (times[row] - age) // STEP * STEP
        seen = np.flatnonzero(grid <= version)
        model = learner()
        model.learn(table.take(pa.array(seen[np.lexsort((seen, known[seen]))])))
        one = table.slice(row, 1)
        label, weight = (one.column(name).to_numpy().astype(np.float32) for name in ("label", "weight"))
        evaluation.add(model.predict(one), label, weight)
    return evaluation


@settings(max_examples=tries(6), deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), max_size=4))
def test_every_score_is_that_of_a_model_made_for_it(seed: int, cuts: list[int]) -> None:
    table = samples(60, seed)
    found = replayed(table, [200, 0, 35], cuts)
    assert [each.age_us for each in found.ages] == [0, 35, 200]
    for each in found.ages:
        total = by_hand(table, each.age_us, found.first_us).total()
        mine = each.metrics
        assert (mine.samples, mine.log_loss, mine.auc) == (total.samples, total.log_loss, total.auc)
        assert each.age_us <= each.mean_age_us < each.age_us + STEP
    assert len({each.metrics.samples for each in found.ages}) == 1


def test_what_became_known_later_changes_nothing() -> None:
    table = samples(400, 3)
    whole = replayed(table, [100])
    times = table.column("request_time").cast(pa.int64()).to_numpy()
    late = times >= 900
    turned = np.where(late, 1 - table.column("label").to_numpy(), table.column("label").to_numpy())
    lied = table.set_column(table.column_names.index("label"), "label", pa.array(turned, pa.int8()))
    other = replayed(lied, [100])
    before = replayed(table.slice(0, int(np.flatnonzero(late)[0])), [100])
    # Up to 900 both are the same; from there to 1,000 labels differ, and no model has seen any of them.
    p, q = whole.ages[0].metrics, other.ages[0].metrics
    assert p.samples == q.samples > before.ages[0].metrics.samples
    assert sum((p.confusion.true_positive, p.confusion.false_positive)) == sum(
        (q.confusion.true_positive, q.confusion.false_positive)
    )
    assert p.log_loss != q.log_loss


def test_an_old_model_does_not_know_that_the_world_has_turned() -> None:
    found = replayed(samples(4_000, 4), [0, 100, 400])
    losses = [each.metrics.log_loss or 0 for each in found.ages]
    assert losses == sorted(losses)
    assert losses[2] > 1.1 * losses[0]
    rankings = [each.metrics.ranking for each in found.ages]
    assert all(ranking is not None and ranking.requests > 100 for ranking in rankings)


def test_refusals() -> None:
    table = samples(50, 5)
    for ages in ([], [5, 5], [-1]):
        with pytest.raises(ConfigError, match="staleness needs different ages of at least 0"):
            replayed(table, ages)
    with pytest.raises(ConfigError, match="younger than the first that is known; take shorter ages"):
        replayed(table, [5_000])
    with pytest.raises(ConfigError, match="take shorter ages"):
        replayed(table.slice(0, 0), [5])
    with pytest.raises(ConfigError, match="staleness needs samples by ascending request_time; sort them"):
        replayed(table.take(pa.array(range(49, -1, -1))), [5])
