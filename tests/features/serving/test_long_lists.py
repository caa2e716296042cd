"""Long lists in chunks: the values of whole states and of DuckDB, however events come, on every online store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.plan.aggregates import MAX_LISTED
from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.stored_states import read_states, stored_keys
from dovetail.features.stream.collections import chunks, rules
from dovetail.features.stream.engine import StreamEngine, Values
from dovetail.features.stream.keys import encode_keys, is_entity
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.features.stream.rerun import ViewReplay
from dovetail.platform.errors import DamagedState, DefinitionError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.features.parity.replay import bits
from tests.features.parity.strategies import ORIGIN, Schema, view_of
from tests.generated import tries
from tests.platform.stores.online_servers import OnlineFactory

SECOND = 1_000_000
LATENESS = 20
PARTITIONS = 2
SCHEMA = Schema({"c0": "BIGINT", "c1": "VARCHAR"})
FRAMES = {
    "ever": "UNBOUNDED",
    "minutes": "INTERVAL 2 MINUTE",
    "hop": "hop(event_time, INTERVAL 2 MINUTE, INTERVAL 7 SECOND)",
}
NO_KEYS: list[bytes] = []


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are long from the third entry on, and chunks short, so that borders are everywhere."""
    monkeypatch.setattr(rules, "MAX_LISTED", 2)
    monkeypatch.setattr(chunks, "EACH", 4)


def long_view(k: int, frame: str, lateness: int = LATENESS) -> StreamView:
    text = f"""
        SELECT user_id, arg_max({{'n': c0, 'text': c1}}, event_time, {k}) OVER w AS history,
               arg_max(c1, event_time, {k}) OVER w AS texts, newest(list(c0) OVER w, {k + 2}) AS newest,
               arg_max(c0, event_time, {k + 3}) FILTER (WHERE c0 > 2) OVER w AS some,
               count(*) OVER w AS n, histogram(c0) OVER w AS counts
        FROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time
                                 RANGE BETWEEN {FRAMES[frame]} PRECEDING AND CURRENT ROW)"""
    return view_of(text, SCHEMA, lateness * SECOND)


def events_of(rows: Sequence[tuple[int, int, int | None, str | None]], partitions: int = PARTITIONS) -> pa.Table:
    """Events of ``(user, seconds, number, text)`` in order of arrival, a message each, dealt to partitions."""
    table = {
        "user_id": pa.array([row[0] for row in rows], pa.int64()),
        "shop": pa.array(["a"] * len(rows)),
        "event_time": pa.array([ORIGIN + row[1] * SECOND for row in rows], pa.timestamp("us")),
        "c0": pa.array([row[2] for row in rows], pa.int64()),
        "c1": pa.array([row[3] for row in rows], pa.string()),
    }
    made = pa.table({field.name: table[field.name].cast(field.type) for field in SCHEMA.arrow})
    at = np.arange(len(rows))
    places = {"_partition": pa.array(at % partitions, pa.int32()), "_offset": pa.array(at // partitions, pa.int64())}
    for name, column in {**places, "_row": pa.array(np.zeros(len(rows)), pa.int32())}.items():
        made = made.append_column(name, column)
    return made


def probes_at(seconds: Sequence[int]) -> pa.Table:
    users = [user for _ in seconds for user in (1, 2, 3)]
    times = [ORIGIN + each * SECOND for each in seconds for _ in range(3)]
    return pa.table({"user_id": pa.array(users, pa.int64()), "request_time": pa.array(times, pa.timestamp("us"))})


class World:
    """A view in an online store, fed message by message, with a worker that starts anew whenever asked."""

    def __init__(self, view: StreamView, store: OnlineStore) -> None:
        self.view, self.store = view, store
        self.log = MemoryLog({"events": PARTITIONS, "dead": 1})
        self.sent: list[pa.Table] = []

    def send(self, events: pa.Table) -> None:
        self.sent.append(events)
        for row in range(events.num_rows):
            one = events.slice(row, 1)
            message = wire.encode(one.select(SCHEMA.arrow.names))
            self.log.append([Outgoing("events", message, partition=one.column("_partition")[0].as_py())])

    def work(self, records: int) -> None:
        """A worker starts, reads what there is in polls of so many messages, and ends."""
        stream = self.view.stream
        intake = Intake(stream.schema, stream.event_time, None)
        stage = FeatureStage(stream, [self.view], intake, self.store, dead_letter_topic="dead")
        asyncio.run(run_stage(stage, self.log, max_records=lambda: records))

    def values(self, probes: pa.Table) -> Values:
        engine = StreamEngine(self.view)
        keys, codes = encode_keys([probes.column("user_id")])
        state = read_states(self.store, {"view": engine}, {"view": keys})["view"]
        marks = [at.watermark_us for at in state.progress.values() if at.watermark_us is not None]
        times = np.asarray(probes.column("request_time").cast(pa.int64()).to_numpy(), dtype=np.int64)
        return engine.values(state.blobs, state.key_index, codes, times, max(marks, default=NO_WATERMARK))

    def check(self, probes: pa.Table) -> None:
        """The values are those of whole states, and of DuckDB."""
        events = pa.concat_tables(self.sent)
        replay = ViewReplay(self.view)
        for partition in range(PARTITIONS):
            replay.apply(events.filter(pa.array(events.column("_partition").to_numpy() == partition)))
        got, whole = self.values(probes), replay.values(probes)
        assert got.answerable.tolist() == whole.answerable.tolist()
        batch = evaluate_view(self.view, events, probes).values
        there = np.flatnonzero(got.answerable)
        for name in self.view.output_schema.names:
            found = bits(got.table.column(name))
            assert found == bits(whole.values.column(name)), name
            mine = bits(batch.column(name))
            assert [found[row] for row in there] == [mine[row] for row in there], name


def some_log(seed: int, step: int) -> list[tuple[int, int, int | None, str | None]]:
    """A log of two users in which a third of the events is late, some by more than anybody waits for."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(60, 220))
    users = np.where(random.random(rows) < 0.8, 1, 2)
    kinds = random.choice(3, rows, p=(0.65, 0.25, 0.1))
    late = np.choose(
        kinds, [random.integers(0, 2, rows), random.integers(0, LATENESS, rows), random.integers(0, 150, rows)]
    )
    times, numbers = np.arange(rows) * step - late, random.integers(-2, 6, rows)
    texts = (None, "", "a", "bc", "\u00e4" * 9)
    picked = random.integers(0, len(texts), rows)
    return [
        (user, at, None if n < 0 else n, texts[text])
        for user, at, n, text in zip(users.tolist(), times.tolist(), numbers.tolist(), picked.tolist(), strict=True)
    ]


@given(
    seed=st.integers(0, 2**32), k=st.sampled_from((3, 4, 5, 8, 13, 40)), frame=st.sampled_from(sorted(FRAMES)),
    cuts=st.lists(st.integers(1, 30), max_size=3), step=st.integers(0, 3), lateness=st.sampled_from((0, LATENESS)),
)  # fmt: skip
@example(seed=0, k=3, frame="ever", cuts=[], step=0, lateness=20)  # a late cut before all that was before the first
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


def in_order(count: int, user: int = 1, start: int = 0) -> pa.Table:
    return events_of([(user, start + at, at % 7 if at % 5 else None, f"t{at}") for at in range(count)])


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


def test_what_an_event_writes_does_not_grow_with_k(
    new_online_store: OnlineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "EACH", 16)
    written = {}
    for k in (30, 300):
        store = _Counting(new_online_store())
        world = World(long_view(k, "ever", 0), store)
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
