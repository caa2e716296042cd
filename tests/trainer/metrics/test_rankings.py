"""Rankings agree with scikit-learn, request by request, and do not depend on how examples are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.arithmetic import Bool, Float32, Float64
from dovetail.trainer.metrics.groups import NULL, Groups
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings, scoped_metrics
from dovetail.trainer.metrics.requests import RankingMetrics
from tests.generated import tries

HOUR = 3_600_000_000


def served(requests: int, seed: int, *, levels: int = 6, largest: int = 40) -> tuple[pa.Table, Float32, Float32]:
    """Samples request by request; few ``levels`` of prediction make ties."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest, requests)
    request = np.repeat(np.arange(requests), sizes)
    n = len(request)
    p = (rng.integers(1, levels + 1, n) / (levels + 2)).astype(np.float32)
    table = pa.table(
        {
            "request_id": [f"r{number}" for number in request],
            "time": pa.array(20_000 * 24 * HOUR + request * (HOUR // 4), pa.timestamp("us")),
            "country": [f"c{number % 3}" for number in request],
            "category": pa.array([None if c == 2 else f"k{c}" for c in rng.integers(0, 3, n)]),
        }
    )
    return table, p, (rng.random(n) < 0.15).astype(np.float32)


def by_scikit_learn(requests: list[object], p: Float32, y: Float32, at: int) -> RankingMetrics:
    """The same metrics, a request at a time."""
    from sklearn import metrics as sk

    numbers: list[tuple[int, float, float, float, float]] = []
    no_positive = no_negative = 0
    of = np.array([str(request) for request in requests])
    for request in dict.fromkeys(of.tolist()):
        scores, labels = p[of == request].astype(np.float64), y[of == request] > 0
        if labels.all() or not labels.any():
            no_negative += int(labels.all())
            no_positive += int(not labels.all())
            continue
        rank, hit = _first_positive(scores, labels, at)
        ndcg = sk.ndcg_score([labels.astype(float)], [scores], k=at)
        numbers.append((len(labels), sk.roc_auc_score(labels, scores), ndcg, rank, hit))
    if not numbers:
        return RankingMetrics(at, 0, no_positive, no_negative, 0, None, None, None, None)
    sizes, auc, ndcg, rank, hit = np.array(numbers).T
    means = float(np.average(auc, weights=sizes)), float(ndcg.mean()), float(rank.mean()), float(hit.mean())
    return RankingMetrics(at, len(numbers), no_positive, no_negative, int(sizes.sum()), *means)


def _first_positive(scores: Float64, labels: Bool, at: int) -> tuple[float, float]:
    """Reciprocal rank and hit of the best positive alone among the negatives, as scikit-learn has them."""
    from sklearn import metrics as sk

    # The last one, below all, makes them more than two, which scikit-learn would take for binary labels.
    candidates = np.concatenate(([scores[labels].max()], scores[~labels], [-1.0]))
    classes = np.arange(len(candidates))
    rank = float(sk.label_ranking_average_precision_score([classes == 0], [candidates]))
    if at >= len(candidates):
        return rank, 1.0
    # Of equal scores it takes the later class first, here the positive last.
    return rank, float(sk.top_k_accuracy_score([0], [candidates], k=at, labels=classes))


def measured(
    table: pa.Table, p: Float32, y: Float32, policy: RankingPolicy, cuts: list[int] | None = None
) -> tuple[list[tuple[str, Metrics]], Rankings]:
    evaluation = Evaluation(window=100, windows=3)
    groups = Groups(time="time", window_us=HOUR, windows=4, slices=["country", "category"], values=5)
    rankings = Rankings(policy, evaluation, groups)
    for a, b in pairwise([0, *sorted(cuts or []), len(p)]):
        part, first = table.slice(a, b - a), evaluation.samples
        evaluation.add(p[a:b], y[a:b], np.ones(b - a, np.float32))
        places = groups.add(part, p[a:b], y[a:b], np.ones(b - a, np.float32))
        rankings.add(part, first, p[a:b], y[a:b], places)
    return scoped_metrics(evaluation, groups, rankings), rankings


def same(mine: RankingMetrics | None, theirs: RankingMetrics) -> None:
    assert mine is not None
    counts = ("at", "requests", "without_positive", "without_negative", "impressions")
    assert [getattr(mine, name) for name in counts] == [getattr(theirs, name) for name in counts]
    for name in ("gauc", "ndcg", "mrr", "hit_rate"):
        assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=1e-12), name


@settings(max_examples=tries(25), deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 60), st.integers(1, 12), st.sampled_from([3, 50, 4096]), st.integers(0, 2**32)
)
def test_agrees_with_scikit_learn(requests: int, largest: int, at: int, reach: int, seed: int) -> None:
    table, p, y = served(requests, seed, largest=largest + 1)
    scoped, _ = measured(table, p, y, RankingPolicy("request_id", at, reach))
    expected = by_scikit_learn(table.column("request_id").to_pylist(), p, y, at)
    same(scoped[0][1].ranking, expected)
    shuffled = np.random.default_rng(seed).permutation(len(p))
    scoped, _ = measured(table.take(shuffled), p[shuffled], y[shuffled], RankingPolicy("request_id", at, 4096))
    same(scoped[0][1].ranking, expected)


def test_a_request_is_in_the_windows_and_slices_of_its_rows() -> None:
    table, p, y = served(60, 3)
    scoped, _ = measured(table, p, y, RankingPolicy("request_id", 5, 50))
    found = dict(scoped)
    ids = np.array(table.column("request_id").to_pylist())
    last = np.array([np.flatnonzero(ids == request)[-1] for request in ids])

    def of(rows: Bool) -> RankingMetrics:
        return by_scikit_learn(ids[rows].tolist(), p[rows], y[rows], 5)

    same(found["recent"].ranking, of(last // 100 >= (len(p) - 1) // 100 - 1))
    hours = table.column("time").cast(pa.int64()).to_numpy() // HOUR
    times = [scope for scope in found if scope.startswith("time:")]
    assert len(times) == 4
    for back, scope in enumerate(reversed(times)):
        same(found[scope].ranking, of(hours == hours.max() - back))
    for column in ("country", "category"):
        values = table.column(column).to_pylist()
        for value in set(values):
            rows = np.array([each == value for each in values])
            same(found[f"slice:{column}={NULL if value is None else value}"].ranking, of(rows))


@settings(max_examples=tries(25), deadline=None)
@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 200))
def test_cuts_and_restores_change_no_bit(cuts: list[int], reach: int) -> None:
    table, p, y = served(60, 5)
    policy = RankingPolicy("request_id", 5, reach)
    (whole, one), (cut, other) = measured(table, p, y, policy), measured(table, p, y, policy, cuts)
    assert whole == cut
    restored = Rankings(policy, Evaluation(100, 3), Groups(time="time", windows=4, slices=["a", "b"], values=5))
    restored.restore(other.state())
    for name, array in one.state().items():
        assert array.tobytes() == restored.state()[name].tobytes(), name


def test_rows_that_are_far_apart_are_two_requests() -> None:
    table = pa.table({"r": ["a", *"bcdefgh", "a"]})
    p, y = np.linspace(0.1, 0.9, 9).astype(np.float32), np.eye(1, 9, dtype=np.float32)[0]
    for reach, requests in ((2, 0), (16, 1)):
        evaluation = Evaluation()
        rankings = Rankings(RankingPolicy("r", reach=reach), evaluation, Groups())
        for row in range(9):
            rankings.add(table.slice(row, 1), row, p[row : row + 1], y[row : row + 1], Groups().add(table, p, y, y))
        total = rankings.settled().total()
        assert (total.requests, total.without_negative, total.without_positive) == (
            requests,
            1 - requests,
            8 - requests,
        )
        assert total.gauc == (0.0 if requests else None)


def test_rows_without_a_request_are_in_none() -> None:
    table = pa.table({"r": pa.array(["a", None, "a", None])})
    p, y = np.array([0.9, 0.5, 0.1, 0.5], np.float32), np.array([1, 0, 0, 1], np.float32)
    rankings = Rankings(RankingPolicy("r"), Evaluation(), Groups())
    rankings.add(table, 0, p, y, Groups().add(table, p, y, y))
    assert rankings.settled().total() == RankingMetrics(10, 1, 0, 0, 2, 1.0, 1.0, 1.0, 1.0)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at >= 1 and reach >= 1, got at=0, reach=5"):
        RankingPolicy("r", 0, 5)
    rankings = Rankings(RankingPolicy("r"), Evaluation(), Groups())
    one = np.full(1, 0.5, np.float32)
    with pytest.raises(WireError, match=r"lacks the request column 'r' that rankings are measured by; it has \['a'\]"):
        rankings.add(pa.table({"a": [1]}), 0, one, one, Groups().add(pa.table({}), one, one, one))
