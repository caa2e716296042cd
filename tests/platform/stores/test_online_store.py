"""What every online store must do; each implementation runs all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.accounts import Account
from dovetail.platform.errors import StaleCommit
from dovetail.platform.stores.ledger import Progress
from dovetail.platform.stores.online import OnlineStore, SqlOnlineStore, ViewCommit

IMPLEMENTATIONS: dict[str, Callable[[Path], OnlineStore]] = {
    "sqlite": lambda folder: SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}"),
}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    opened = IMPLEMENTATIONS[request.param](tmp_path)
    yield opened
    opened.close()


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


@settings(max_examples=25)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["v", "w"]), st.integers(0, 4), st.dictionaries(
            st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=4), max_size=3)),
        max_size=20,
    )
)  # fmt: skip
def test_any_sequence_of_commits_behaves_like_a_dictionary(
    writes: list[tuple[int, str, int, dict[bytes, bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Commits with a right or wrong idea of the position, against the plainest model of the contract."""
    for make in IMPLEMENTATIONS.values():
        store = make(tmp_path_factory.mktemp("model"))
        positions: dict[tuple[str, int], int] = {}
        states: dict[tuple[str, int, bytes], bytes] = {}
        for partition, view, expected, changed in writes:
            here = positions.get((view, partition), 0)
            attempt = ViewCommit(view, expected, Progress(expected + 1), changed)
            if expected == here:
                store.commit(partition, [attempt], [])
                positions[view, partition] = expected + 1
                states |= {(view, partition, key): state for key, state in changed.items()}
            else:
                with pytest.raises(StaleCommit):
                    store.commit(partition, [attempt], [])
        for view in ("v", "w"):
            for partition in (0, 1):
                read = store.read_partition(view, partition, [b"a", b"b", b"c"])
                assert read == [states.get((view, partition, key)) for key in (b"a", b"b", b"c")]
        store.close()
