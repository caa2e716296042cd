"""Metrics by event time and by slice are those of the rows they are of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.metrics.groups import NULL, OTHER, Groups
from dovetail.trainer.metrics.measures import Metrics, exact_auc
from dovetail.trainer.metrics.progressive import Evaluation

HOUR = 3_600_000_000


def example(n: int = 400) -> tuple[pa.Table, Float32, Float32, Float32]:
    rng = np.random.default_rng(11)
    times = np.sort(rng.integers(0, 6 * HOUR, n)) + 20_000 * 24 * HOUR
    cities = rng.choice(["a", "b", "c", "d"], n).tolist()
    table = pa.table(
        {
            "time": pa.array(times, pa.timestamp("us")),
            "city": pa.array([None if city == "d" else city for city in cities]).dictionary_encode(),
            "tier": pa.array(rng.integers(0, 2, n)),
        }
    )
    p = rng.uniform(0.05, 0.95, n).astype(np.float32)
    return table, p, (rng.random(n) < p).astype(np.float32), np.ones(n, np.float32)


def only(mask: np.ndarray[tuple[int], np.dtype[np.bool_]], *arrays: Float32) -> Metrics:
    evaluation = Evaluation()
    evaluation.add(*(array[mask] for array in arrays))
    return evaluation.total()


def test_groups_are_the_metrics_of_their_rows() -> None:
    table, *arrays = example()
    groups = Groups(time="time", window_us=HOUR, windows=4, slices=["city", "tier"], values=2)
    groups.add(table, *arrays)
    found = dict(groups.report())
    hours = table.column("time").cast(pa.int64()).to_numpy() // HOUR
    newest = hours.max()
    windows = [scope for scope in found if scope.startswith("time:")]
    assert windows == sorted(windows)
    assert [found[scope] for scope in windows] == [only(hours == newest - back, *arrays) for back in (3, 2, 1, 0)]
    cities = table.column("city").to_pylist()
    first, second = list(dict.fromkeys(cities))[:2]
    for value in (first, second):
        mask = np.array([city == value for city in cities])
        assert found[f"slice:city={NULL if value is None else value}"] == only(mask, *arrays)
    rest = np.array([city not in (first, second) for city in cities])
    assert found[f"slice:city={OTHER}"] == only(rest, *arrays)
    assert f"slice:tier={OTHER}" not in found


@given(st.lists(st.integers(0, 400), max_size=5))
def test_cuts_change_no_bit(cuts: list[int]) -> None:
    table, *arrays = example()
    made = [Groups(time="time", window_us=HOUR, windows=2, slices=["city"], values=3) for _ in range(2)]
    made[0].add(table, *arrays)
    for a, b in pairwise([0, *sorted(cuts), 400]):
        made[1].add(table.slice(a, b - a), *(array[a:b] for array in arrays))
    for name, array in made[0].state().items():
        assert array.tobytes() == made[1].state()[name].tobytes(), name


def test_rows_older_than_every_window_are_counted_late() -> None:
    table, *arrays = example(100)
    groups = Groups(time="time", window_us=HOUR, windows=2)
    groups.add(table, *arrays)
    before = groups.report()
    groups.add(table[:1], *(array[:1] for array in arrays))
    assert groups.late == 1
    assert groups.report() == before


def test_auc_is_exact_where_all_predictions_are_at_hand() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    p = (rng.integers(1, 20, 500) / 32).astype(np.float32)
    labels, weights = (rng.random(500) < p).astype(np.float32), rng.integers(1, 4, 500).astype(np.float32)
    exact = exact_auc(p, labels, weights)
    assert exact == pytest.approx(roc_auc_score(labels, p, sample_weight=weights), abs=1e-12)
    binned = only(np.ones(500, np.bool_), p, labels, weights)
    assert binned.auc is not None
    assert binned.auc_error is not None
    assert abs(binned.auc - (exact or 0)) <= binned.auc_error + 1e-12
    assert exact_auc(p, labels * 0, weights) is None
    assert exact_auc(p[:0], labels[:0], weights[:0]) is None


def test_refusals() -> None:
    table, *arrays = example(10)
    with pytest.raises(ConfigError, match="at least 1 and different slice columns"):
        Groups(slices=["a", "a"])
    with pytest.raises(WireError, match=r"lacks the columns \['town'\] that metrics are grouped by"):
        Groups(slices=["town"]).add(table, *arrays)
    holed = table.set_column(0, "time", pa.array([None] * 10, pa.timestamp("us")))
    with pytest.raises(WireError, match="time column 'time' is NULL at row 0"):
        Groups(time="time").add(holed, *arrays)
    with pytest.raises(ModelError, match="they must lie inside"):
        Groups(time="time").add(table, arrays[0] * 0, *arrays[1:])
