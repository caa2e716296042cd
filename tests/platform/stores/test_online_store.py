"""What every online store must do: SQLite always; Redis, Redis Cluster and PostgreSQL where there is a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore, ViewCommit
from tests.generated import tries
from tests.platform.stores.online_servers import OnlineFactory

DAY = 86_400_000_000


@pytest.fixture
def store(new_online_store: OnlineFactory) -> OnlineStore:
    return new_online_store()


def commit(view: str, expected: int, after: int, **changed: bytes) -> ViewCommit:
    return ViewCommit(view, expected, Progress(after), {key.encode(): state for key, state in changed.items()})


def test_nothing_is_stored_at_first(store: OnlineStore) -> None:
    assert store.progress("v") == {}
    assert store.read_partition("v", 0, [b"k"]) == [None]
    states = store.read({"v": [b"k"]})["v"]
    assert (list(states.key_index), list(states.blobs), dict(states.progress)) == ([], [], {})


def test_state_and_position_are_read_as_committed(store: OnlineStore) -> None:
    progress = Progress(7, watermark_us=11, timestamp_ms=13, sources={2: 17})
    store.commit(3, [ViewCommit("v", 0, progress, {b"a": b"1", b"b": b"2"})], [])
    assert store.progress("v") == {3: progress}
    assert store.read_partition("v", 3, [b"b", b"x", b"a"]) == [b"2", None, b"1"]
    assert store.read_partition("v", 0, [b"a"]) == [None]


def test_a_reader_gets_every_partition_of_a_key_in_the_order_asked(store: OnlineStore) -> None:
    store.commit(1, [commit("v", 0, 5, a=b"a1", b=b"b1")], [])
    store.commit(0, [commit("v", 0, 3, a=b"a0"), commit("w", 0, 3, a=b"w0")], [])
    states = store.read({"v": [b"b", b"a"], "w": [b"a"], "none": [b"a"]})
    assert list(states["v"].key_index) == [0, 1, 1]
    assert list(states["v"].blobs) == [b"b1", b"a0", b"a1"]
    assert {p: progress.next_offset for p, progress in states["v"].progress.items()} == {0: 3, 1: 5}
    assert list(states["w"].blobs) == [b"w0"]
    assert list(states["none"].blobs) == []


def test_the_keys_of_a_view_are_each_given_once(store: OnlineStore) -> None:
    store.commit(1, [commit("v", 0, 5, a=b"a1", b=b"b1")], [])
    store.commit(0, [commit("v", 0, 3, a=b"a0", c=b"c0"), commit("w", 0, 3, x=b"x0")], [])
    assert sorted(store.keys("v", 10)) == [b"a", b"b", b"c"]
    assert len(store.keys("v", 2)) == 2
    assert store.keys("none", 10) == []


@pytest.mark.parametrize(("expected", "found"), [(0, 5), (4, 5), (6, 5)])
def test_a_stale_position_is_refused_and_nothing_of_the_commit_is_stored(
    store: OnlineStore, expected: int, found: int
) -> None:
    store.commit(0, [commit("v", 0, found, a=b"old")], [Account("s", "t", 0, "read", 1)])
    with pytest.raises(StaleCommit) as raised:
        store.commit(
            0, [commit("w", 0, 9, a=b"new"), commit("v", expected, 9, a=b"new")], [Account("s", "t", 0, "read", 5)]
        )
    assert (raised.value.expected, raised.value.found) == (expected, found)
    assert store.read_partition("v", 0, [b"a"]) == [b"old"]
    assert store.progress("w") == {}
    assert store.accounts() == [Account("s", "t", 0, "read", 1)]


def test_a_position_that_was_never_stored_can_only_be_expected_at_zero(store: OnlineStore) -> None:
    with pytest.raises(StaleCommit):
        store.commit(0, [commit("v", 3, 9, a=b"new")], [])
    assert store.progress("v") == {}


def test_accounts_add_up_over_commits(store: OnlineStore) -> None:
    store.commit(0, [commit("v", 0, 1)], [Account("s", "t", 0, "read", 2), Account("s", "t", 0, "applied", 2)])
    store.commit(0, [commit("v", 1, 2)], [Account("s", "t", 0, "read", 3), Account("s", "t", 0, "expired", 3)])
    assert store.accounts() == [
        Account("s", "t", 0, "applied", 2),
        Account("s", "t", 0, "expired", 3),
        Account("s", "t", 0, "read", 5),
    ]


def test_many_keys_go_and_come(store: OnlineStore) -> None:
    states = {i.to_bytes(4, "big"): i.to_bytes(8, "big") for i in range(12_000)}
    store.commit(0, [ViewCommit("v", 0, Progress(1), states)], [])
    assert store.read_partition("v", 0, list(states)) == list(states.values())
    read = store.read({"v": list(states)})["v"]
    assert list(read.blobs) == list(states.values())
    assert list(read.key_index) == list(range(len(states)))


def aged(store: OnlineStore, watermark: int, *keys: bytes, partition: int = 0) -> None:
    """Commit states of ``keys`` at a watermark, of a view whose states matter for a day."""
    found = store.progress("v").get(partition, Progress()).next_offset
    progress = Progress(found + 1, watermark_us=watermark)
    store.commit(partition, [ViewCommit("v", found, progress, dict.fromkeys(keys, b"x"), DAY)], [])


def held(store: OnlineStore, *keys: bytes, partition: int = 0) -> list[bool]:
    return [state is not None for state in store.read_partition("v", partition, keys)]


def test_an_empty_state_removes_the_key(store: OnlineStore) -> None:
    store.commit(0, [commit("v", 0, 1, a=b"1", b=b"2")], [])
    store.commit(0, [commit("v", 1, 2, a=b"")], [])
    assert store.read_partition("v", 0, [b"a", b"b"]) == [None, b"2"]


def test_states_leave_when_event_time_has_passed_their_last_use(store: OnlineStore) -> None:
    aged(store, 0, b"idle", b"busy")
    aged(store, DAY, b"busy")
    assert held(store, b"idle", b"busy") == [True, True]
    aged(store, DAY + 1, b"new")
    assert held(store, b"idle", b"busy", b"new") == [False, True, True]
    aged(store, 4 * DAY, b"new")
    assert held(store, b"idle", b"busy", b"new") == [False, False, True]
    states = store.read({"v": [b"idle", b"busy", b"new"]})["v"]
    assert (list(states.key_index), states.progress[0].watermark_us) == ([2], 4 * DAY)


def test_a_partition_that_stands_still_loses_nothing(store: OnlineStore) -> None:
    aged(store, 0, b"a", partition=0)
    aged(store, 0, b"a", partition=1)
    aged(store, 100 * DAY, b"b", partition=1)
    assert held(store, b"a", partition=0) == [True]
    assert held(store, b"a", b"b", partition=1) == [False, True]


def test_states_without_retention_stay(store: OnlineStore) -> None:
    aged(store, 0, b"a", b"b")
    store.commit(0, [ViewCommit("v", 1, Progress(2, watermark_us=1), {b"a": b"for ever"})], [])
    aged(store, 100 * DAY, b"c")
    assert held(store, b"a", b"b", b"c") == [True, False, True]


def test_a_state_that_left_comes_back_with_its_key(store: OnlineStore) -> None:
    for watermark in (0, 10 * DAY, 20 * DAY):
        aged(store, watermark, b"a")
        assert held(store, b"a") == [True]


def test_many_states_leave_in_bounded_work(store: OnlineStore) -> None:
    keys = [i.to_bytes(2, "big") for i in range(6_000)]
    aged(store, 0, *keys)
    left = [6_000]
    for number in range(20):
        aged(store, 10 * DAY + number, b"later")
        left.append(sum(held(store, *keys)))
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= 502


def test_promotion_moves_state_positions_ages_and_accounts(store: OnlineStore) -> None:
    account = Account("features.v", "t", 0, "read", 1)
    store.commit(0, [ViewCommit("v", 0, Progress(4, 0), {b"old": b"o"}, DAY)], [account])
    store.commit(5, [ViewCommit("v", 0, Progress(2, 0), {b"old": b"p"}, DAY)], [])
    for partition in (0, 17):
        change = ViewCommit("v#new", 0, Progress(9, 0), {b"k": b"n"}, DAY)
        store.commit(partition, [change], [account._replace(stage="features.v#new", partition=partition, rows=7)])
    store.promote("v#new", "v", expected={0: 4, 5: 2})
    assert {p: x.next_offset for p, x in store.progress("v").items()} == {0: 9, 17: 9}
    assert store.progress("v#new") == {}
    states = store.read({"v": [b"old", b"k"], "v#new": [b"k"]})
    assert (list(states["v"].key_index), list(states["v"].blobs)) == ([1, 1], [b"n", b"n"])
    assert list(states["v#new"].blobs) == []
    assert store.read_partition("v", 5, [b"old"]) == [None]
    assert {(a.stage, a.partition, a.rows) for a in store.accounts()} == {("features.v", 0, 7), ("features.v", 17, 7)}
    store.commit(0, [ViewCommit("v", 9, Progress(10, 9 * DAY), {b"new": b"x"}, DAY)], [])
    assert held(store, b"k", b"new") == [False, True]


@pytest.mark.parametrize("expected", [{}, {0: 3}, {0: 4, 1: 1}, {0: 4, 16: 1}])
def test_promotion_over_other_positions_changes_nothing(store: OnlineStore, expected: dict[int, int]) -> None:
    store.commit(0, [commit("v", 0, 4, a=b"old")], [])
    store.commit(16, [commit("w", 0, 2, a=b"new")], [])
    with pytest.raises(StaleCommit):
        store.promote("w", "v", expected=expected)
    assert store.read_partition("v", 0, [b"a"]) == [b"old"]
    assert store.read_partition("w", 16, [b"a"]) == [b"new"]
    with pytest.raises(StaleCommit):
        store.promote("nobody", "v", expected={0: 4})


def test_of_two_writers_of_a_partition_one_goes_on(new_online_store: OnlineFactory) -> None:
    """Both commit all they can from their own idea of the position, each over its own connections."""
    stores = [new_online_store(), new_online_store(again=True)]
    total = 40

    def write(number: int) -> list[int]:
        done = []
        for at in range(total):
            change = commit("v", at, at + 1, last=str(number).encode(), **{f"k{at}": str(number).encode()})
            try:
                stores[number].commit(0, [change], [Account("features.v", "t", 0, "read", 1)])
                done.append(at)
            except StaleCommit:
                continue
        return done

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(write, range(2))
    done = sorted([*first, *second])
    assert done == list(range(len(done)))
    assert store_position(stores[0]) == len(done)
    assert stores[0].accounts() == [Account("features.v", "t", 0, "read", len(done))]
    winners = stores[1].read_partition("v", 0, [f"k{at}".encode() for at in range(total)])
    assert winners == [b"0" if at in first else b"1" if at in second else None for at in range(total)]


def store_position(store: OnlineStore, partition: int = 0) -> int:
    return store.progress("v").get(partition, Progress()).next_offset


def test_writers_of_different_partitions_do_not_disturb_each_other(new_online_store: OnlineFactory) -> None:
    """They credit the same accounts in different orders: no deadlock, nothing lost."""
    stores = [new_online_store(), new_online_store(again=True)]
    shared = [Account("features.v", "t", 9, what, 1) for what in ("read", "applied")]

    def write(partition: int) -> None:
        for at in range(30):
            change = commit("v", at, at + 1, a=str(at).encode())
            stores[partition].commit(partition, [change], shared if partition else shared[::-1])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert {(a.outcome, a.rows) for a in stores[0].accounts()} == {("read", 60), ("applied", 60)}
    assert not any(balance(stores[0].accounts()).values())
    assert [store_position(stores[0], p) for p in (0, 1)] == [30, 30]


def test_a_reader_sees_a_partition_and_its_position_in_one_moment(new_online_store: OnlineFactory) -> None:
    """Every commit writes its position into every key: a torn read would show two numbers."""
    writer, reader = new_online_store(), new_online_store(again=True)
    keys = [f"k{i}".encode() for i in range(50)]
    stop = Event()

    def write(partition: int) -> None:
        at = 0
        while not stop.is_set():
            state = str(at + 1).encode()
            changes = [ViewCommit(view, at, Progress(at + 1), dict.fromkeys(keys, state)) for view in ("v", "w")]
            writer.commit(partition, changes, [])
            at += 1

    threads = [Thread(target=write, args=(partition,)) for partition in (0, 3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            states = reader.read({"v": keys, "w": keys})
            for view in ("v", "w"):
                read = states[view]
                seen = sorted({int(blob) for blob in read.blobs})
                assert seen == sorted({p.next_offset for p in read.progress.values()})
                assert len(read.blobs) == len(keys) * len(read.progress)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


COMMITS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 16]), st.sampled_from(["v", "w"]), st.integers(0, 4), st.integers(0, 3),
        st.dictionaries(st.sampled_from([b"a", b"b", b"\x00\xff"]), st.binary(max_size=4), max_size=3),
    ),
    max_size=20,
)  # fmt: skip


@settings(max_examples=tries(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=COMMITS)
def test_any_sequence_of_commits_behaves_like_a_dictionary(
    new_online_store: OnlineFactory, writes: list[tuple[int, str, int, int, dict[bytes, bytes]]]
) -> None:
    """Commits with a right or wrong idea of the position, against the plainest model of the contract."""
    store = new_online_store()
    positions: dict[tuple[str, int], int] = {}
    states: dict[tuple[str, int, bytes], bytes] = {}
    credited = 0
    for partition, view, expected, rows, changed in writes:
        here = positions.get((view, partition), 0)
        attempt = ViewCommit(view, expected, Progress(expected + 1), changed)
        accounts = [Account("s", "t", partition, "read", rows)]
        if expected == here:
            store.commit(partition, [attempt], accounts)
            positions[view, partition] = expected + 1
            states |= {(view, partition, key): state for key, state in changed.items()}
            credited += rows
        else:
            with pytest.raises(StaleCommit):
                store.commit(partition, [attempt], accounts)
    keys = [b"a", b"b", b"\x00\xff"]
    read = store.read({"v": keys, "w": keys})
    for view in ("v", "w"):
        assert {p: x.next_offset for p, x in read[view].progress.items()} == {
            p: offset for (of, p), offset in positions.items() if of == view
        }
        found = [(i, p) for i, key in enumerate(keys) for p in (0, 1, 16) if states.get((view, p, key))]
        assert list(read[view].key_index) == [i for i, _ in found]
        assert list(read[view].blobs) == [states[view, p, keys[i]] for i, p in found]
        for partition in (0, 1, 16):
            mine = store.read_partition(view, partition, keys)
            assert mine == [states.get((view, partition, key)) or None for key in keys]
    assert sum(account.rows for account in store.accounts()) == credited
