"""Redis stores and connections that break: nothing twice, nothing half, and whose commit it was is known."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pytest

from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import StaleCommit, StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.online import OnlineStore, ViewCommit
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.redis.online import RedisOnlineStore
from tests.platform.stores.faults.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.services

READ = Account("features.v", "t", 0, "read", 5)
PATIENT, HASTY = RedisConfig(retries=2), RedisConfig(retries=0)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(redis_url) as cutting:
        yield cutting


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"{os.getpid()}-{request.node.name}"


def change(expected: int, state: bytes) -> ViewCommit:
    return ViewCommit("v", expected, Progress(expected + 1), {b"k": state})


def contents(store: OnlineStore) -> tuple[dict[int, int], list[bytes | None], list[Account]]:
    positions = {partition: progress.next_offset for partition, progress in store.progress("v").items()}
    return positions, store.read_partition("v", 0, [b"k"]), store.accounts()


def test_a_commit_whose_answer_was_lost_has_happened_once(proxy: CuttingProxy, name: str) -> None:
    store = open_online_store(proxy.url, name, PATIENT)
    store.commit(0, [change(0, b"1")], [READ])
    proxy.cuts = 2
    store.commit(0, [change(1, b"2")], [READ])
    assert proxy.cuts == 0
    assert contents(store) == ({0: 2}, [b"2"], [READ._replace(rows=10)])
    store.close()


def test_a_commit_whose_answer_was_lost_to_a_new_owner_is_stale(proxy: CuttingProxy, redis_url: str, name: str) -> None:
    store, other = open_online_store(proxy.url, name, PATIENT), open_online_store(redis_url, name)
    store.commit(0, [change(0, b"1")], [READ])
    proxy.after = lambda: other.commit(0, [change(2, b"other")], [READ])
    proxy.cuts = 1
    with pytest.raises(StaleCommit, match="the store is at offset 3, this worker expected 1"):
        store.commit(0, [change(1, b"2")], [READ])
    assert contents(store) == ({0: 3}, [b"other"], [READ._replace(rows=15)])
    store.close()
    other.close()


def test_a_promotion_whose_answer_was_lost_has_happened_once(proxy: CuttingProxy, name: str) -> None:
    store = open_online_store(proxy.url, name, PATIENT)
    store.commit(0, [change(0, b"1"), ViewCommit("w", 0, Progress(7), {b"k": b"new"})], [READ])
    proxy.cuts = 1
    store.promote("w", "v", expected={0: 1})
    assert contents(store)[:2] == ({0: 7}, [b"new"])
    store.close()


def test_of_a_commit_cut_in_its_middle_nothing_is_stored(proxy: CuttingProxy, redis_url: str, name: str) -> None:
    store, other = open_online_store(proxy.url, name, HASTY), open_online_store(redis_url, name)
    store.commit(0, [change(0, b"1")], [READ])
    before = contents(other)
    for length in (1, 20, 100, 200):
        proxy.within = length
        with pytest.raises(StoreError, match=r"Redis failed: ConnectionError.*goes on from what is stored"):
            store.commit(0, [change(1, b"2" * 1_000)], [READ])
        assert contents(other) == before
    proxy.within = None
    store.commit(0, [change(1, b"2")], [READ])
    assert contents(other)[:2] == ({0: 2}, [b"2"])
    store.close()
    other.close()


def test_a_redis_that_stays_away_ends_the_worker(proxy: CuttingProxy, name: str) -> None:
    store = open_online_store(proxy.url, name, RedisConfig(retries=1))
    store.commit(0, [change(0, b"1")], [READ])
    proxy.cuts, opened = 100, proxy.connections
    with pytest.raises(StoreError, match="Redis failed"):
        store.commit(0, [change(1, b"2")], [READ])
    assert proxy.connections == opened + 1
    store.close()


def test_labels_whose_answer_was_lost_are_inserted_and_marked_once(proxy: CuttingProxy, name: str) -> None:
    store = open_label_store(proxy.url, name, PATIENT)
    rows = pa.Table.from_pylist(
        [dict(zip(LABEL_ROWS.names, ("r", str(i), "click", 1, 1, 0, i, 0), strict=True)) for i in range(3)], LABEL_ROWS
    )
    marks = rows.select(["request_id", "item_id", "kind"]).append_column("outcome", pa.array(["sampled"] * 3))
    store.insert("labels.click", 0, expected=0, progress=Progress(0), rows=rows.slice(0, 0), topic="click")
    for at in range(2):
        proxy.cuts = 1
        store.insert("labels.click", 0, expected=at, progress=Progress(at + 1), rows=rows, topic="click")
    proxy.cuts = 1
    credit = [Account("samples", "snapshots", 0, "read", 3)]
    store.mark("samples", 0, expected=0, progress=Progress(1), outcomes=marks, accounts=credit)
    assert store.outcomes() == {("click", "sampled"): 3}
    counts = {account.outcome: account.rows for account in store.accounts() if account.stage == "labels.click"}
    assert counts == {"read": 6, "inserted": 3, "duplicate": 3}
    assert [account.rows for account in store.accounts() if account.stage == "samples"] == [3]
    store.close()


@pytest.mark.parametrize("partition", [0, 4])
def test_a_promotion_that_meets_a_commit_changes_nothing(
    redis_url: str, name: str, partition: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positions read first are right; the script finds others."""
    store = RedisOnlineStore(redis_url, name, HASTY)
    store.commit(0, [change(0, b"1"), ViewCommit("w", 0, Progress(7), {b"k": b"new"})], [READ])
    seen = {view: store._progress(view) for view in ("v", "w")}
    store.commit(partition, [change(0 if partition else 1, b"2")], [READ])
    before = contents(store)
    monkeypatch.setattr(store, "_progress", lambda view: seen[view])
    with pytest.raises(StaleCommit, match=f"view:v, partition {partition}: "):
        store.promote("w", "v", expected={0: 1})
    monkeypatch.undo()
    assert contents(store) == before
    assert store.progress("w") == {0: Progress(7)}
    store.close()
