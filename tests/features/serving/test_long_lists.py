"""Long lists in chunks: the values of whole states and of DuckDB, however events come, on every online store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dovetail.features.batch import streaming
from dovetail.features.plan.aggregates import MAX_LISTED
from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.stored_states import read_states, stored_keys
from dovetail.features.stream.collections import chunks, rules
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys, is_entity
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.platform.errors import DamagedState, DefinitionError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit
from dovetail.platform.stores.sql.online import SqlOnlineStore
from tests.features.parity.strategies import view_of
from tests.features.serving.long_list_worlds import (
    FRAMES,
    LATENESS,
    SCHEMA,
    World,
    events_of,
    in_order,
    long_view,
    probes_at,
    some_log,
)
from tests.generated import tries
from tests.platform.stores.online_servers import OnlineFactory


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are long from the third entry on, and chunks short, so that borders are everywhere."""
    monkeypatch.setattr(rules, "MAX_LISTED", 2)
    monkeypatch.setattr(chunks, "EACH", 4)


@given(
    seed=st.integers(0, 2**32), k=st.sampled_from((3, 4, 5, 8, 13, 40)), frame=st.sampled_from(sorted(FRAMES)),
    cuts=st.lists(st.integers(1, 30), max_size=3), step=st.integers(0, 3), lateness=st.sampled_from((0, LATENESS)),
)  # fmt: skip
@example(seed=0, k=3, frame="ever", cuts=[], step=0, lateness=20)  # a late cut before all that was before the first
@example(seed=1, k=13, frame="rows", cuts=[5, 2], step=1, lateness=20)
@example(seed=2, k=4, frame="rows", cuts=[], step=2, lateness=0)
@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_values_are_those_of_whole_states_and_of_duckdb(
    seed: int, k: int, frame: str, cuts: list[int], step: int, lateness: int
) -> None:
    folder = TemporaryDirectory()
    store = SqlOnlineStore(f"sqlite:///{folder.name}/online.sqlite")
    try:
        world = World(long_view(k, frame, lateness), store)
        rows = some_log(seed, step)
        events, newest = events_of(rows), max(row[1] for row in rows)
        for number, records in enumerate([*cuts, 17]):  # a worker for each, with polls of another size
            start, end = (len(rows) * (number + more) // (len(cuts) + 1) for more in (0, 1))
            world.send(events.slice(start, end - start))
            world.work(records)
        world.check(probes_at([newest - lateness, newest - lateness // 2, newest, newest + 1, newest + 150]))
    finally:
        store.close()
        folder.cleanup()


def test_every_store_keeps_chunks_and_lets_them_go(new_online_store: OnlineFactory) -> None:
    store = new_online_store()
    world = World(long_view(20, "minutes"), store)
    world.send(in_order(150))
    world.work(7)
    late = events_of([(1, 140 - 3 * at, at, "late") for at in range(30)])
    later = late.set_column(late.column_names.index("_offset"), "_offset", pa.array(np.arange(30) // 2 + 75))
    world.send(later)
    world.work(5)
    world.check(probes_at([149, 160, 200]))
    engine = StreamEngine(world.view)
    kept = store.keys("view", 1_000)
    assert len(kept) > len(stored_keys(store, engine, 1_000)) == 1
    assert stored_keys(store, engine, 0) == []
    # Another key's time passes: all that is left of the first one leaves with it.
    for number in range(3):
        far = events_of([(2, 10_000 * (number + 1) + at, 1, "x") for at in range(2)])
        offsets = pa.array(np.full(2, 90 + number))
        world.send(far.set_column(far.column_names.index("_offset"), "_offset", offsets))
        world.work(1)
    (mine,), _ = encode_keys([pa.array([1], pa.int64())])
    assert [key for key in store.keys("view", 1_000) if key.startswith(mine)] == []


def test_chunks_are_few_and_hold_little_more_than_the_list(new_online_store: OnlineFactory) -> None:
    store = new_online_store()
    world = World(long_view(20, "ever", 0), store)
    world.send(in_order(600))
    world.work(50)
    keys = store.keys("view", 10_000)
    (mine,), _ = encode_keys([pa.array([1], pa.int64())])
    assert all(key.startswith(mine) for key in keys)
    # Four lists in two partitions, 20 to 23 entries and a chunk more each, of four entries on average.
    assert len(keys) < 4 * 2 * (23 // 2 + 6)
    world.check(probes_at([599, 700]))


def test_chunks_go_where_their_view_goes(new_online_store: OnlineFactory) -> None:
    """As when a state that was built beside the old one takes its place."""
    store = new_online_store()
    world = World(long_view(20, "ever"), store)
    world.send(in_order(120))
    world.work(9)
    probes = probes_at([119])
    before = world.values(probes).table
    store.promote("view", "other", expected={})
    engine = StreamEngine(world.view)
    keys, codes = encode_keys([probes.column("user_id")])
    state = read_states(store, {"other": engine}, {"other": keys})["other"]
    times = np.asarray(probes.column("request_time").cast(pa.int64()).to_numpy(), dtype=np.int64)
    assert engine.values(state.blobs, state.key_index, codes, times, NO_WATERMARK).table.equals(before)
    assert store.keys("view", 10) == []


def test_lists_of_real_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rules, "MAX_LISTED", MAX_LISTED)
    monkeypatch.setattr(chunks, "EACH", 128)
    store = SqlOnlineStore(f"sqlite:///{tmp_path / 'online.sqlite'}")
    world = World(long_view(1_500, "ever"), store)
    random = np.random.default_rng(20240229)
    moved = np.arange(4_500) - np.where(random.random(4_500) < 0.02, random.integers(0, 4_000, 4_500), 0)
    world.send(events_of([(1, at, number % 7 or None, f"t{number}") for number, at in enumerate(moved.tolist())]))
    world.work(400)
    world.check(probes_at([4_490, 4_600]))
    store.close()


def test_frames_of_real_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of more than 1,000 events, which batch joins with a bounded number of probes at once."""
    monkeypatch.setattr(rules, "MAX_LISTED", MAX_LISTED)
    monkeypatch.setattr(chunks, "EACH", 128)
    monkeypatch.setattr(streaming, "_PAIRS", 3_000)
    store = SqlOnlineStore(f"sqlite:///{tmp_path / 'online.sqlite'}")
    world = World(long_view(1_500, "rows"), store)
    random = np.random.default_rng(20240229)
    moved = np.arange(4_500) - np.where(random.random(4_500) < 0.02, random.integers(0, 4_000, 4_500), 0)
    world.send(events_of([(1, at, number % 7 or None, f"t{number % 40}") for number, at in enumerate(moved.tolist())]))
    world.work(400)
    world.check(probes_at([4_490, 4_600, 9_000]))
    assert len(stored_keys(store, StreamEngine(world.view), 100)) == 1 < len(store.keys("view", 100))
    store.close()


def test_a_chunk_that_is_missing_is_said(new_online_store: OnlineFactory) -> None:
    store = new_online_store()
    world = World(long_view(20, "ever"), store)
    world.send(in_order(100))
    world.work(10)
    chunk = next(key for key in store.keys("view", 1_000) if not is_entity(key, 1) and key[-9:-8] == b"c")
    for partition, at in store.progress("view").items():
        store.commit(partition, [ViewCommit("view", at.next_offset, at, {chunk: b""})], [])
    with pytest.raises(DamagedState, match="chunks of lists are missing; rebuild the state"):
        world.values(probes_at([100]))


class _Meanwhile(OnlineStore):
    """A store in which something happens after each of the first reads."""

    def __init__(self, store: OnlineStore, happens: list[Callable[[], None]]) -> None:
        self._store, self._happens = store, happens

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        found = self._store.read(keys)
        if self._happens:
            self._happens.pop(0)()
        return found

    def progress(self, view: str) -> Any:
        return self._store.progress(view)

    def keys(self, view: str, limit: int) -> list[bytes]:
        return self._store.keys(view, limit)

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read_partition(view, partition, keys)

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        self._store.commit(partition, commits, accounts)

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        self._store.promote(source, target, expected=expected)

    def accounts(self) -> list[Account]:
        return self._store.accounts()

    def close(self) -> None:
        self._store.close()


def test_a_reader_sees_one_moment_while_chunks_are_made(new_online_store: OnlineFactory) -> None:
    store = new_online_store()
    world = World(long_view(30, "ever"), store)
    events = in_order(200)
    world.send(events.slice(0, 80))
    world.work(10)

    def more(start: int, count: int) -> Callable[[], None]:
        def happens() -> None:
            world.send(events.slice(start, count))
            world.work(10)

        return happens

    asked = World(world.view, _Meanwhile(store, [more(80, 60), more(140, 60)]))
    asked.sent = world.sent
    probes = probes_at([199, 250])
    got = asked.values(probes)
    assert got.table.equals(world.values(probes).table)
    world.check(probes)


class _Counting(_Meanwhile):
    """A store that says how many bytes of state each commit has written."""

    def __init__(self, store: OnlineStore) -> None:
        super().__init__(store, [])
        self.sizes: list[int] = []

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        self.sizes.append(sum(len(state) for commit in commits for state in commit.changed.values()))
        super().commit(partition, commits, accounts)


@pytest.mark.parametrize("frame", ["ever", "rows"])
def test_what_an_event_writes_does_not_grow_with_k(
    frame: str, new_online_store: OnlineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "EACH", 16)
    written = {}
    for k in (30, 300):
        store = _Counting(new_online_store())
        world = World(long_view(k, frame, 0), store)
        world.send(in_order(800))
        world.work(100)
        store.sizes.clear()
        world.send(events_of([(1, 800 + at, 1, "x") for at in range(100)]))
        world.work(1)
        written[k] = sum(store.sizes) / len(store.sizes)
    assert written[300] < 1.5 * written[30], written


def test_lists_of_the_newest_events_may_be_long_and_others_not() -> None:
    window = "WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"

    def parsed(aggregate: str) -> StreamView:
        return view_of(f"SELECT user_id, {aggregate} AS f FROM events {window}", SCHEMA)

    assert parsed("arg_max(c0, event_time, 100000) OVER w").aggregates[0].k == 100_000
    assert parsed("newest(list(c0) OVER w, 100000)").aggregates[0].k == 100_000
    with pytest.raises(DefinitionError, match="write a number from 1 to 100000"):
        parsed("arg_max(c0, event_time, 100001) OVER w")
    for other in ("arg_max(c1, c0, 1001) OVER w", "arg_min(c0, event_time, 1001) OVER w"):
        with pytest.raises(DefinitionError, match=r"from 1 to 1000; of the newest events, arg_max\(x, event_time, k\)"):
            parsed(other)
