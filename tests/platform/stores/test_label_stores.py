"""What every label store must do; SQLite always, Redis and PostgreSQL where there is a server."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, StaleCommit, StoreError
from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import KEY, LABEL_EVENTS, LABEL_ROWS, LabelStore, earliest_per_key
from tests.generated import tries
from tests.platform.stores.label_servers import Factory

SCOPE = "labels.click"
Row = tuple[str, str, str, int, int, int, int, int]


def table(rows: list[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(LABEL_ROWS)
    return pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, LABEL_ROWS, strict=True)], LABEL_ROWS.names
    )


def row(request: str = "r", item: str = "1", effective: int = 10, offset: int = 0, kind: str = "click") -> Row:
    return (request, item, kind, effective, effective, 0, offset, 0)


def insert(store: LabelStore, rows: list[Row], at: int, partition: int = 0) -> None:
    store.insert(SCOPE, partition, expected=at, progress=Progress(at + 1), rows=table(rows), topic="click")


def mark(store: LabelStore, keys: list[tuple[str, str, str]], outcome: str, at: int) -> None:
    columns = list(zip(*keys, strict=True)) or [(), (), ()]
    outcomes = pa.table([*(pa.array(c, pa.string()) for c in columns), pa.array([outcome] * len(keys), pa.string())],
                        names=[*KEY, "outcome"])  # fmt: skip
    accounts = [
        Account("samples", "snapshots", 0, "read", len(keys)),
        Account("samples", "snapshots", 0, "sampled", len(keys)),
    ]
    store.mark("samples", 0, expected=at, progress=Progress(at + 1), outcomes=outcomes, accounts=accounts)


def held(store: LabelStore, requests: list[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = store.lookup(requests).sort_by([(name, "ascending") for name in KEY]).to_pylist()
    return rows


REQUESTS = ["r1", "a:b", "é {x}"]
ROWS = st.lists(
    st.builds(
        lambda request, item, kind, effective, early, partition, offset: (
            request, item, kind, effective, effective - early, partition, offset, 0
        ),
        st.sampled_from(REQUESTS), st.sampled_from(["1", "a,b", "\x1fz"]), st.sampled_from(["click", "exposure"]),
        st.integers(1_700_000_000_000_000, 1_700_000_000_000_004), st.integers(0, 2), st.integers(0, 1),
        st.integers(0, 1 << 42),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS, data=st.data())
def test_any_order_repetition_and_split_gives_the_same_rows(
    new_store: Factory, rows: list[Row], data: st.DataObject
) -> None:
    repeated = data.draw(st.permutations(rows + rows[: len(rows) // 3]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(repeated)), max_size=3)))
    store = new_store()
    bounds = [0, *cuts, len(repeated)]
    for at, (start, end) in enumerate(pairwise(bounds)):
        insert(store, repeated[start:end], at)
    expected = earliest_per_key(table(rows))
    assert held(store, REQUESTS) == expected.to_pylist()
    assert store.rows() == expected.num_rows == sum(store.outcomes().values())
    accounts = {a.outcome: a.rows for a in store.accounts()}
    assert accounts.get("inserted", 0) == expected.num_rows
    assert accounts.get("duplicate", 0) == len(repeated) - expected.num_rows
    assert not any(balance(store.accounts()).values())
    for bound in {happened for *_, happened, _, _, _ in rows}:  # any row may be the first that is not early
        kept = [*store.lookup(REQUESTS).to_pylist(), *store.lookup_events(REQUESTS).drop_columns("payload").to_pylist()]
        found = earliest_per_key(pa.Table.from_pylist([r for r in kept if r["event_time_us"] >= bound], LABEL_ROWS))
        assert found.to_pylist() == earliest_per_key(table([r for r in rows if r[4] >= bound])).to_pylist()


def test_progress_comes_back_as_it_was_stored(new_store: Factory) -> None:
    store = new_store()
    assert store.progress(SCOPE) == {}
    first, second = Progress(3, 1_700_000_000_000_000, 12, {0: 5, 70_000: 1 << 60}), Progress(8)
    store.insert(SCOPE, 0, expected=0, progress=first, rows=table([]), topic="click")
    store.insert(SCOPE, 7, expected=0, progress=second, rows=table([]), topic="click")
    assert store.progress(SCOPE) == {0: first, 7: second}
    assert store.progress("labels.exposure") == {}


@pytest.mark.parametrize("expected", [0, 2])
def test_a_commit_from_another_position_is_refused_whole(new_store: Factory, expected: int) -> None:
    store = new_store()
    insert(store, [row()], 0)
    before = (held(store, ["r"]), store.accounts(), store.outcomes(), store.progress(SCOPE))
    with pytest.raises(StaleCommit, match=f"the store is at offset 1, this worker expected {expected}"):
        store.insert(SCOPE, 0, expected=expected, progress=Progress(9), rows=table([row("s")]), topic="click")
    assert (held(store, ["r"]), store.accounts(), store.outcomes(), store.progress(SCOPE)) == before
    assert held(store, ["s"]) == []


def test_a_mark_from_another_position_is_refused_whole(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row()], 0)
    with pytest.raises(StaleCommit):
        mark(store, [("r", "1", "click")], "sampled", 4)
    assert store.outcomes() == {("click", "pending"): 1}
    assert store.progress("samples") == {}


def test_of_two_commits_from_one_position_one_wins(new_store: Factory) -> None:
    store = new_store()

    def commit(number: int) -> bool:
        try:
            insert(store, [row(f"r{number}")], 0)
        except StaleCommit:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(commit, range(4)))
    assert won.count(True) == 1
    assert [bool(held(store, [f"r{number}"])) for number in range(4)] == won


def test_marks_move_rows_between_outcomes(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row(item="1"), row(item="2"), row(item="2", kind="exposure")], 0)
    mark(store, [("r", "1", "click")], "sampled", 0)
    assert store.outcomes() == {("click", "sampled"): 1, ("click", "pending"): 1, ("exposure", "pending"): 1}
    mark(store, [("r", "2", "click"), ("r", "2", "exposure")], "late", 1)
    assert store.outcomes() == {("click", "sampled"): 1, ("click", "late"): 1, ("exposure", "late"): 1}
    assert not [account for account in store.accounts() if "repeated" in account.stage]


def test_the_first_mark_of_a_row_stands_and_the_others_are_counted(new_store: Factory) -> None:
    """Several snapshot rows may meet one label: a request that came twice, an item that stood twice in one."""
    store = new_store()
    insert(store, [row(item="1"), row(item="2"), row(item="1", kind="exposure")], 0)
    first = [("r", "1", "click"), ("r", "1", "exposure"), ("r", "1", "click"), ("r", "1", "click")]
    mark(store, first, "sampled", 0)
    mark(store, [("r", "2", "click"), ("r", "1", "click")], "late", 1)
    assert store.outcomes() == {("click", "sampled"): 1, ("click", "late"): 1, ("exposure", "sampled"): 1}
    counted = {(a.topic, a.outcome): a.rows for a in store.accounts() if a.stage.endswith(".repeated")}
    assert counted == {("click", "read"): 3, ("click", "sampled"): 2, ("click", "late"): 1}
    assert not any(balance(a for a in store.accounts() if a.stage.endswith(".repeated")).values())


def test_of_different_marks_of_a_row_the_first_of_the_call_stands(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row()], 0)
    marks = [["r"] * 2, ["1"] * 2, ["click"] * 2, ["sampled", "late"]]
    outcomes = pa.table([pa.array(column) for column in marks], names=[*KEY, "outcome"])
    store.mark("samples", 0, expected=0, progress=Progress(1), outcomes=outcomes, accounts=[])
    assert store.outcomes() == {("click", "sampled"): 1}
    counted = {a.outcome: a.rows for a in store.accounts() if a.stage == "labels.click.repeated"}
    assert counted == {"read": 1, "late": 1}


@pytest.mark.services
def test_what_redis_has_lost_since_it_was_looked_up_is_not_marked(redis_url: str) -> None:
    with closing(open_label_store(redis_url, f"lost-{uuid.uuid4().hex}")) as store:
        insert(store, [row(item="1")], 0)
        with pytest.raises(
            StoreError, match=r"^samples, partition 0: rows that were read from Redis a moment ago are g"
        ):
            mark(store, [("r", "1", "click"), ("r", "2", "click")], "sampled", 0)
        assert store.outcomes() == {("click", "pending"): 1}
        assert store.progress("samples") == {}
        assert not [account for account in store.accounts() if account.stage == "samples"]


def test_an_earlier_event_of_a_marked_row_leaves_its_outcome(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row(effective=10)], 0)
    mark(store, [("r", "1", "click")], "late", 0)
    insert(store, [row(effective=5)], 1)
    assert held(store, ["r"])[0]["effective_us"] == 5
    assert store.outcomes() == {("click", "late"): 1}


def test_rows_before_the_boundary_leave_and_stay_in_the_accounts(new_store: Factory) -> None:
    store = new_store()
    insert(
        store, [row("a", effective=5), row("b", effective=10), row("b", "2", effective=3), row("c", effective=11)], 0
    )
    mark(store, [("a", "1", "click"), ("b", "2", "click")], "sampled", 0)
    before = store.outcomes()
    assert store.retire(10) == 2
    assert store.retire(10) == 0
    assert [(r["request_id"], r["item_id"]) for r in held(store, ["a", "b", "c"])] == [("b", "1"), ("c", "1")]
    assert store.rows() == 2
    assert store.outcomes() == before
    assert Account("labels.click.retired", "click", 0, "sampled", 2) in store.accounts()
    assert not any(balance(store.accounts()).values())
    assert store.retire(100) == 2
    assert store.rows() == 0


def test_an_earlier_event_moves_a_row_before_the_boundary(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row(effective=10)], 0)
    insert(store, [row(effective=5)], 1)
    assert store.retire(8) == 1


def test_rows_leave_in_batches(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row(f"r{i}", effective=i) for i in range(50)], 0)
    removed = []
    while n := store.retire(40, limit=16):
        removed.append(n)
    assert sum(removed) == 40
    assert max(removed) <= 17
    assert store.rows() == 10


def test_rows_that_are_not_stored_are_accounted_for(new_store: Factory) -> None:
    store = new_store()
    not_stored = {"dead": 2, "late": 3, "unattributed": 4}
    store.insert(SCOPE, 0, expected=0, progress=Progress(5), rows=table([row()]), topic="click", **not_stored)
    counts = {a.outcome: a.rows for a in store.accounts()}
    assert counts == {"read": 10, "inserted": 1, "dead_letter": 2, "late": 3, "unattributed": 4}


def test_a_lookup_of_many_requests_is_answered_in_one_go(new_store: Factory) -> None:
    store = new_store()
    insert(store, [row(f"r{i}", effective=i + 1) for i in range(12_000)], 0)
    found = store.lookup([f"r{i}" for i in range(11_000)])
    assert found.schema.equals(LABEL_ROWS)
    assert np.sort(found.column("effective_us").to_numpy()).tolist() == list(range(1, 11_001))


@pytest.mark.parametrize("url", ["redis://localhost:none/0", "nonsense"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        open_label_store(url, "x")


def test_a_redis_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Redis does not answer"):
        open_label_store(f"unix://{tmp_path}/nobody.sock", "x")


def test_what_may_stand_in_for_the_first_of_a_key_is_kept_and_nothing_else(new_store: Factory) -> None:
    store = new_store()
    first = ("r", "a\x1f,b", "click", 10, 10, 0, 0, 0)
    same, older = (*first[:3], 12, 10, 0, 1, 0), (*first[:3], 13, 4, 0, 2, 0)
    later, before = (*first[:3], 14, 14, 0, 3, 0), (*first[:3], 7, 7, 1, 0, 0)
    insert(store, [first, same, older, row("s")], 0)
    insert(store, [same, older], 1)
    assert store.events() == {}
    insert(store, [later], 2)
    insert(store, [later], 3)
    assert [tuple(one.values()) for one in store.lookup_events(["r", "s"]).to_pylist()] == [(*later, None)]
    insert(store, [before], 4)  # what was the first may stand in for it
    kept = store.lookup_events(["r"]).sort_by("effective_us").to_pylist()
    assert [tuple(one.values()) for one in kept] == [(*first, None), (*later, None)]
    assert held(store, ["r"])[0]["effective_us"] == 7
    assert store.events() == {"click": 2}
    books = {(one.stage, one.outcome): one.rows for one in store.accounts() if one.stage != SCOPE}
    assert books == {("labels.click.kept", "kept"): 2, ("labels.click.kept", "read"): 2}
    store.retire(12)
    assert store.events() == {"click": 1}
    assert not any(balance(store.accounts()).values())


def test_of_many_writers_none_loses_what_may_stand_in(new_store: Factory) -> None:
    """Partitions of a kind are committed side by side, and labels of one key stand in several."""
    store, n = new_store(), 12
    rows = [("r", str(item), "click", 10 + k, 10 + k, k, 0, 0) for k in range(n) for item in range(3)]

    def commit(partition: int) -> None:
        insert(store, [one for one in rows if one[5] == partition], 0, partition)

    with ThreadPoolExecutor(n) as pool:
        list(pool.map(commit, np.random.default_rng(0).permutation(n).tolist()))
    kept = store.lookup_events(["r"]).select(["item_id", "effective_us"]).to_pylist()
    assert len(held(store, ["r"])) == 3
    assert sorted((one["item_id"], one["effective_us"]) for one in kept) == [
        (str(item), 10 + k) for item in range(3) for k in range(1, n)
    ]


def test_labels_kept_by_themselves_are_counted_until_they_are_let_go(new_store: Factory) -> None:
    store = new_store()
    rows = [row(effective=10), row(effective=12, offset=1), row("s", "a\x1f,b", effective=30, offset=2)]
    for at, some in enumerate((rows, [*rows[:1], row(effective=11, offset=3)])):
        kept = table(some).append_column(LABEL_EVENTS.field("payload"), pa.nulls(len(some), pa.string()))
        progress = Progress(at + 1)
        store.insert(SCOPE, 0, expected=at, progress=progress, rows=table(some), topic="click", events=kept)
    assert store.events() == {"click": 4}  # one of the second came again
    store.retire(20)
    assert store.events() == {"click": 1}
    books = {(one.stage, one.outcome): one.rows for one in store.accounts() if one.stage != SCOPE}
    assert books["labels.click.kept", "kept"] == books["labels.click.kept", "read"] == 4
    assert books["labels.click.let_go", "let_go"] == books["labels.click.let_go", "read"] == 3
    store.retire(40)
    assert store.events() == {}
    assert store.lookup_events(["r", "s"]).num_rows == 0
