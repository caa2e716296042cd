"""The formulas and refusals of policies; what they decide is held against SQL in test_join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dovetail.joiners.batch.selection import seed_and_recent
from dovetail.joiners.matching import Keys, chance, keys_of
from dovetail.joiners.pairs import find_pairs, hash_pairs
from dovetail.joiners.policies.delayed import recalibrate
from dovetail.joiners.policies.fast_emit import fnw_weight
from dovetail.platform.config.durations import DAY_US
from dovetail.platform.config.load import load_config
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.errors import ConfigError
from tests.places import ROOT


def test_fnw_weights_are_the_published_ones() -> None:
    weight = fnw_weight([0.25, 0.25, 0.0, 1.0], [1, 0, 0, 0])
    assert weight.dtype == np.float32
    assert weight.tolist() == [1.25, 0.9375, 1.0, 0.0]


def test_fnw_undoes_the_false_negatives_in_expectation() -> None:
    """Weighted, the stream of one negative per exposure and one positive per click has the true log-loss gradient."""
    p, q = 0.2, 0.3  # true probability and prediction: the weights make q = p the fixed point
    positive, negative = fnw_weight([p, p], [1, 0]).astype(float)
    gradient = negative * q - p * positive * (1 - q)  # per exposure: one negative, and with probability p one positive
    assert gradient == pytest.approx((1 + p) * ((1 - p) * q - p * (1 - q)))
    assert negative * p - p * positive * (1 - p) == pytest.approx(0)


def test_the_reference_says_the_same(recorded_logs: Path) -> None:
    file = recorded_logs.parent / "reference" / "optimizers.json"
    if not file.is_file():
        pytest.skip("the reference formulas are not here (they are not part of the repository)")
    formula = json.loads(file.read_text(encoding="utf-8"))["delayed_labels"]["formula"]
    assert formula["fnw_positive_weight"].startswith("1+p")
    assert formula["fnw_negative_weight"] == "(1-p)*(1+p)"


@pytest.mark.parametrize("fraction", [0.01, 0.5, 1.0])
def test_recalibration_inverts_down_sampling(fraction: float) -> None:
    p = np.array([0.0, 0.05, 0.5, 1.0])
    q = p / (p + (1 - p) * fraction)
    assert recalibrate(q, fraction) == pytest.approx(p)


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="a fraction kept, above 0"):
        recalibrate(0.5, fraction)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"policy": "fast_emit"}, "emit_after: policy fast_emit needs it; add one"),
        ({"policy": "fast_emit", "emit_after": ["2h"]}, "would look at 2h, 1h after"),
        ({"policy": "fast_emit", "negative_fraction": 0.5}, "negative_fraction: it belongs to policy 'delayed'"),
        ({"policy": "fast_emit", "corrections": "1h"}, "corrections: it belongs to policy 'delayed'"),
        ({"policy": "return_days"}, "days: policy return_days needs them"),
        ({"policy": "return_days", "days": [3, 1]}, "would look at 1h, 3d, 1d after"),
        ({"policy": "return_days", "days": [1], "unexposed_fraction": 0.1}, "unexposed_fraction: it belongs"),
        ({"days": [1]}, "days: it belongs to policy 'return_days'"),
        ({"emit_after": ["1s"]}, "emit_after: it belongs to policy 'fast_emit'"),
        ({"corrections": "0s"}, "would look at 1h, 1h after"),
        ({"window": "0s"}, "window: it is 0"),
        ({"positive": "exposure"}, "every sample would be positive"),
    ],
)
def test_contradictions_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PolicyConfig.model_validate({"window": "1h", **declared})


def test_targets_have_topics_and_roles_of_their_own() -> None:
    conversion = {
        "policy": "return_days",
        "window": "1h",
        "days": [1, 7],
        "exposure": "click",
        "positive": "conversion",
    }
    config = load_config(ROOT, labels={"targets": {"buy": {**conversion, "samples_topic": "buys"}}})
    assert [t for t in config.topics() if t.startswith("buys")] == ["buys", "buys-held-1", "buys-held-2"]
    assert config.labels.longest_us == 7 * DAY_US
    with pytest.raises(
        ConfigError, match=r"declared twice, by \[labels\] samples_topic and by \[labels\.targets\.buy\]"
    ):
        load_config(ROOT, labels={"targets": {"buy": conversion}})
    with pytest.raises(
        ConfigError,
        match=r"labels\.targets\.buy\.positive: 'sale' is no label stream; write one of click, conversion, exposure",
    ):
        load_config(ROOT, labels={"targets": {"buy": {**conversion, "positive": "sale", "samples_topic": "buys"}}})


def reference_chance(request: str, item: str) -> float:
    h = 14695981039346656037
    for byte in f"{request}\x1f{item}".encode():
        h = (h ^ byte) * 1099511628211 % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ (h >> 33)) * factor % 2**64
    return ((h ^ (h >> 33)) >> 11) / 2**53


@given(st.lists(st.tuples(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1)), max_size=12))
def test_the_draw_is_a_function_of_request_and_item(pairs: list[tuple[str, int]]) -> None:
    table = pa.table({"request_id": pa.array([r for r, _ in pairs], pa.string()),
                      "item_id": pa.array([i for _, i in pairs], pa.int64())})  # fmt: skip
    assert chance(keys_of(table)).tolist() == [reference_chance(r, str(i)) for r, i in pairs]


def test_equal_hashes_are_settled_by_the_strings() -> None:
    """Every pair given the same hash: the strings alone decide."""

    def same(pairs: list[tuple[str, str]]) -> Keys:
        table = pa.table({"request_id": [a for a, _ in pairs], "item_id": [b for _, b in pairs]})
        return keys_of(table)._replace(hashes=np.zeros(len(pairs), dtype=np.uint64))

    known = same([("a", "bc"), ("ab", "c"), ("abc", ""), ("x", "y")])
    found = find_pairs(*same([("ab", "c"), ("a", "bc"), ("ab", "d"), ("abc", ""), ("", "abc")]), *known)
    assert found.tolist() == [1, 0, -1, 2, -1]


def test_a_sliced_table_has_the_keys_of_its_rows() -> None:
    table = pa.table({"request_id": ["a", "b", "c"], "item_id": [1, 2, 3]})
    keys, part = keys_of(table), keys_of(table.slice(1))
    assert part.hashes.tolist() == keys.hashes[1:].tolist()
    assert hash_pairs(*part[1:]).tolist() == part.hashes.tolist()


def test_seed_and_recent_takes_each_row_once_as_old_as_it_was() -> None:
    rows = [  # request, request day, age, label
        ("mature", 0, 1, 0), ("mature", 0, 3, 0), ("mature", 0, 7, 1),
        ("old", -9, 7, 0),
        ("young", 9, 1, 0), ("young", 9, 3, 1),
        ("half", 6, 1, 0), ("half", 6, 3, 0), ("half", 6, 7, 1),
        ("quick", 5, 1, 1),
    ]  # fmt: skip
    samples = pa.table(
        {
            "request_id": [r for r, *_ in rows],
            "item_id": [1] * len(rows),
            "request_time": pa.array([(100 + d) * DAY_US for _, d, *_ in rows], pa.int64()).cast(pa.timestamp("us")),
            "elapsed_days": pa.array([a for _, _, a, _ in rows], pa.int16()),
            "label": pa.array([label for *_, label in rows], pa.int8()),
        }
    )
    chosen = seed_and_recent(samples, as_of_us=110 * DAY_US, full_age=7, seed_days=10, recent_days=2)
    # "half" is neither recent nor of full age yet; "old" is before the seed; "quick" is positive, hence final.
    assert [(r["request_id"], r["elapsed_days"]) for r in chosen.to_pylist()] == [
        ("mature", 7), ("young", 1), ("quick", 1)
    ]  # fmt: skip
    later = seed_and_recent(samples, as_of_us=113 * DAY_US, full_age=7, seed_days=10, recent_days=2)
    assert [(r["request_id"], r["elapsed_days"]) for r in later.to_pylist()] == [
        ("young", 3), ("half", 7), ("quick", 1)
    ]  # fmt: skip
