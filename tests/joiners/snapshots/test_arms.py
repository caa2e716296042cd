"""Requests split by user: the same arm in the worker and in SQL, each arm's scores from its own model, all recorded."""

from __future__ import annotations

import hashlib

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.joiners.snapshots.arms import ARM_COLUMNS, Experiment, Split, arm_sql, draw_sql
from tests.places import ROOT

SPLIT = Split("user_id", "colours", ("control", "red", "blue"), (0.5, 0.3, 0.2))


class Model:
    """Scores each row with its feature plus a number, as one version."""

    def __init__(self, version: int, more: float) -> None:
        self.version, self.more, self.refreshed = version, more, 0

    def refresh(self) -> None:
        self.refreshed += 1

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        return self.version, (table.column("f").to_numpy() + self.more).astype(np.float32)


def chunked(values: list[object], type_: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, type_)])


def test_a_draw_is_thirteen_digits_of_the_md5_of_salt_and_user() -> None:
    draw = SPLIT.draws(chunked(["u1"], pa.string()))[0].as_py()
    assert draw == int(hashlib.md5(b"colours:u1").hexdigest()[:13], 16) / 16**13
    assert SPLIT.bounds == [0.5, 0.8, 1.0]


@given(
    st.one_of(
        st.tuples(st.just(pa.string()), st.lists(st.none() | st.text(st.characters(codec="utf-8")), min_size=1)),
        st.tuples(st.just(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1)),
    ),
    st.sampled_from(["colours", "it's", ""]),
)
def test_sql_says_the_same_draw_and_arm(users: tuple[pa.DataType, list[object]], salt: str) -> None:
    split = SPLIT._replace(salt=salt)
    rows = pa.table({"u": pa.array(users[1], users[0])})
    draws = split.draws(rows.column("u"))
    places = split.places(draws)
    arms = [None if place < 0 else split.arms[place] for place in places.tolist()]
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.sql(f"SELECT {draw_sql(split, 'u')}, {arm_sql(split, 'u')} FROM rows").fetchall()
    assert found == list(zip(draws.to_pylist(), arms, strict=True))


def test_arms_have_their_shares_and_another_salt_splits_anew() -> None:
    users = chunked(list(range(20_000)), pa.int64())
    places = SPLIT.places(SPLIT.draws(users))
    assert np.bincount(places) / len(places) == pytest.approx(SPLIT.shares, abs=0.012)
    other = SPLIT._replace(salt="shapes")
    both = (places == 0) & (other.places(other.draws(users)) == 0)
    assert both.mean() == pytest.approx(0.25, abs=0.012)


def test_each_arm_is_scored_by_its_model_and_who_has_no_user_by_what_serves() -> None:
    models = [Model(1, 0.1), Model(2, 0.2), Model(3, 0.3)]
    users = chunked(["a", "b", None, "k", "m", "z", "q", "a"], pa.string())
    rows = pa.table({"f": np.arange(8.0)})
    versions, scores, columns = Experiment("trial", SPLIT, models).score(rows, users, Model(9, 0.9))
    places = SPLIT.places(SPLIT.draws(users))
    assert {*places.tolist()} == {-1, 0, 1, 2}
    assert versions.tolist() == [9 if place < 0 else place + 1 for place in places]
    more = [0.9 if place < 0 else (place + 1) / 10 for place in places]
    assert scores == pytest.approx(np.arange(8) + np.array(more), abs=1e-6)
    assert tuple(columns) == ARM_COLUMNS
    assert columns["_experiment"].to_pylist() == ["trial"] * 2 + [None] + ["trial"] * 5
    assert columns["_arm"].to_pylist() == [None if place < 0 else SPLIT.arms[place] for place in places]
    assert columns["_arm_draw"].null_count == 1


def test_every_model_of_an_arm_is_kept_fresh() -> None:
    models = [Model(1, 0), Model(2, 0), Model(3, 0)]
    Experiment("trial", SPLIT, models).refresh()
    assert [model.refreshed for model in models] == [1, 1, 1]


def test_the_sql_of_the_documentation_says_the_same() -> None:
    query = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").split("```sql")[1].split("```")[0]
    split = Split("user_id", "bigger", ("control", "bigger"), (0.5, 0.5))
    rows = pa.table({"user_id": [f"u{number}" for number in range(100)]})
    draws = split.draws(rows.column("user_id"))
    arms = [split.arms[place] for place in split.places(draws).tolist()]
    with duckdb.connect() as connection:
        connection.register("users", rows)
        found = connection.sql(query).fetchall()
    assert found == list(zip(rows.column("user_id").to_pylist(), draws.to_pylist(), arms, strict=True))
