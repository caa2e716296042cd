"""States that a stage has committed: with and without keeping them, the same is stored, whoever had the partitions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project, load
from dovetail.features.serving.committed_states import CommittedStates
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stage import Outgoing, Work
from dovetail.platform.stores.online import ViewCommit
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog

TOML = """
[streams.event]
key = "user"
partitions = 2
allowed_lateness = "1h"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
SCHEMAS = """
CREATE TABLE event (user VARCHAR, event_time TIMESTAMP NOT NULL, n BIGINT);
CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
VIEWS = {
    "sums": "sum(n) OVER w AS total, count(*) OVER w AS events",
    "lists": "newest(list(n) OVER w, 3) AS latest, count(DISTINCT n) OVER w AS kinds",
}
WINDOW = "WINDOW w AS (PARTITION BY user ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)"


class _Counting(SqlOnlineStore):
    """A store that notes the keys it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder / 'online.sqlite'}")
        self.asked: list[bytes] = []

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked += keys
        return super().read_partition(view, partition, keys)


class _NoneKept(CommittedStates):
    """Reads everything from the store."""

    def committed(self, source: int, commit: ViewCommit) -> None:
        del source, commit


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML)
    (folder / "sql" / "schemas.sql").write_text(SCHEMAS)
    for name, columns in VIEWS.items():
        (folder / "sql" / f"{name}.sql").write_text(f"SELECT user, {columns} FROM event {WINDOW};")
    ranking = "SELECT request_id, item_id, sums.total, lists.kinds FROM request"
    joined = "LEFT JOIN sums USING (user) LEFT JOIN lists USING (user);"
    (folder / "sql" / "ranking.sql").write_text(f"{ranking} {joined}")
    return load(folder)


class _World:
    """Two workers with a store, whose feature stages keep committed states as ``kept`` says."""

    def __init__(self, project: Project, folder: Path, kept: int | None) -> None:
        self.project, self.kept = project, kept
        self.store = _Counting(folder)
        self.stages = [self.begun(), self.begun()]
        self.at = [dict(stage.resume("event")) for stage in self.stages]

    def begun(self) -> FeatureStage:
        """A stage as a worker has it that begins."""
        stream, views = self.project.streams["event"], list(self.project.stream_views.values())
        intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
        stage = FeatureStage(stream, views, intake, self.store, dead_letter_topic="dead")
        stage._states = _NoneKept(self.store) if self.kept is None else CommittedStates(self.store, self.kept)
        return stage

    def step(self, log: MemoryLog, worker: int, partition: int, messages: int, how: How) -> str:
        """A poll of a partition by a worker, and what became of it."""
        stage = self.stages[worker]
        if how == "assigned":
            stage.forget("event", {0, 1})
            self.at[worker] = dict(stage.resume("event"))
        poll = log.poll("event", partition, self.at[worker].get(partition, 0), messages)
        if poll is None:
            return "nothing"
        [work] = asyncio.run(_works(stage, poll))
        assert work.commit is not None
        if how != "dies before":
            with contextlib.suppress(StaleCommit):
                work.commit()
                self.at[worker][partition] = poll.last + 1
                if how != "dies after":
                    return "committed"
        self.stages[worker] = self.begun()
        self.at[worker] = dict(self.stages[worker].resume("event"))
        return "ended"

    def stored(self) -> object:
        """All that is stored."""
        views = list(self.project.stream_views)
        keys = {view: self.store.keys(view, 1_000) for view in views}
        states = {(v, p): self.store.read_partition(v, p, keys[v]) for v in views for p in (0, 1)}
        return keys, states, {view: self.store.progress(view) for view in views}, self.store.accounts()


How = Literal["goes on", "assigned", "dies before", "dies after"]


async def _works(stage: FeatureStage, poll: object) -> list[Work]:
    return [work async for work in stage.handle(poll)]  # type: ignore[arg-type]


def _log(rows: Sequence[tuple[int, str, int, int]]) -> MemoryLog:
    log = MemoryLog({"event": 2})
    for partition, user, minutes, n in rows:
        at = f"1970-01-0{1 + minutes // 1_440} {minutes // 60 % 24:02d}:{minutes % 60:02d}:00"
        value = json.dumps({"user": user, "event_time": at, "n": n}).encode()
        log.append([Outgoing("event", value, partition=partition)])
    return log


_ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abcdef"), st.sampled_from([0, 5, 70, 200, 500]), st.integers(1, 3)),
    min_size=10,
    max_size=40,
)
_STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(1, 4),
        st.sampled_from(["goes on", "goes on", "assigned", "dies before", "dies after"]),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(_ROWS, _STEPS, st.sampled_from([1, 1_500, 1 << 20]))
def test_the_same_is_stored_whether_committed_states_are_kept_or_not(
    project: Project, rows: list[tuple[int, str, int, int]], steps: list[tuple[int, int, int, How]], budget: int
) -> None:
    minutes = 0
    ascending = []
    for partition, user, further, n in rows:
        late = further == 5
        ascending.append((partition, user, max(0, minutes - 50) if late else minutes + further // 4, n))
        minutes = max(minutes, ascending[-1][2])
    log = _log(ascending)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        worlds = [_World(project, Path(one), budget), _World(project, Path(other), None)]
        for step in steps:
            assert len({world.step(log, *step) for world in worlds}) == 1
            assert worlds[0].stored() == worlds[1].stored()
        for world in worlds:
            world.store.close()


def test_a_worker_does_not_read_what_it_has_committed(project: Project, tmp_path: Path) -> None:
    world = _World(project, tmp_path, 1 << 20)
    log = _log([(0, user, minute, 1) for minute, user in enumerate("abcabcabdefg")])
    asked = []
    for _ in range(4):
        world.store.asked.clear()
        assert world.step(log, 0, 0, 3, "goes on") == "committed"
        asked.append(len(world.store.asked))
    assert asked == [6, 2, 4, 6]  # of two views: each key when it is first met, and one beside those that are known
    world.store.asked.clear()
    again = _log([(0, user, minute, 1) for minute, user in enumerate("abcabcabdefgefg")])
    assert world.step(again, 0, 0, 3, "assigned") == "committed"
    assert len(world.store.asked) == 6
    world.store.close()


def test_states_are_given_out_at_the_position_they_belong_to_and_before_they_may_leave(tmp_path: Path) -> None:
    store = _Counting(tmp_path)
    states = CommittedStates(store)

    def commit(expected: int, watermark_us: int, changed: dict[bytes, bytes], *, told: bool = True) -> None:
        one = ViewCommit("v", expected, Progress(expected + 1, watermark_us), changed, 160)
        store.commit(0, [one], [])
        if told:
            states.committed(0, one)

    commit(0, 100, {b"a": b"1", b"b": b"2"})
    assert states.read("v", 0, 1, [b"b", b"a"]) == [b"2", b"1"]
    assert store.asked == [b"b"]  # to see that the store has it, too
    commit(1, 110, {b"a": b""})
    assert states.read("v", 0, 2, [b"b", b"a"]) == [b"2", None]
    assert store.asked == [b"b", b"a", b"b"]
    commit(2, 280, {})  # b was remembered by 100: it has left the store, or may have
    assert states.read("v", 0, 3, [b"b"]) == store.read_partition("v", 0, [b"b"])
    commit(3, 281, {b"c": b"3"})
    commit(4, 282, {b"c": b"4"}, told=False)  # by another worker
    assert states.read("v", 0, 5, [b"c"]) == [b"4"]
    assert states.read("v", 0, 4, [b"c"]) == [b"4"]  # memory of another position is gone
    store.close()


def test_memory_is_bounded_and_keeps_what_was_committed_last(tmp_path: Path) -> None:
    store = _Counting(tmp_path)
    states = CommittedStates(store, budget=10_000)
    for at in range(100):
        one = ViewCommit("v", at, Progress(at + 1), {b"key %d" % at: bytes(200)})
        store.commit(0, [one], [])
        states.committed(0, one)
    keys = [b"key %d" % at for at in range(100)]
    assert states.read("v", 0, 100, keys) == [bytes(200)] * 100
    *missing, probe = store.asked
    assert 75 <= len(missing) < 100
    assert missing == keys[: len(missing)]
    assert probe == keys[len(missing)]
    store.close()


def test_a_view_that_was_built_again_at_the_same_position_is_read_anew(tmp_path: Path) -> None:
    store = _Counting(tmp_path)
    states = CommittedStates(store)
    live = ViewCommit("v", 0, Progress(1), {b"a": b"of before", b"b": b"of before"})
    store.commit(0, [live], [])
    states.committed(0, live)
    store.commit(0, [ViewCommit("again", 0, Progress(1), {b"a": b"new", b"b": b"new", b"c": b"new"})], [])
    store.promote("again", "v", expected={0: 1})
    assert states.read("v", 0, 1, [b"c", b"a", b"b"]) == [b"new"] * 3
    store.close()
