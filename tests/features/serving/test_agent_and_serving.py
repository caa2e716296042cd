"""Events into the online store and features out of it, on the shipped definitions and on hostile ones."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.features import Project, load
from dovetail.features.expressions.execute import PreparedColumns, StreamPreparer
from dovetail.features.plan.definitions import Table
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.vetting import prepared_when_vetted, vet_events
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.platform.polls import poll_of

TOML = """
[streams.event]
key = "user"
partitions = 2
allowed_lateness = "1h"
[tables.item]
path = "item.parquet"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
SQL = {
    "schemas.sql": """
        CREATE TABLE event (user VARCHAR, event_time TIMESTAMP NOT NULL, n BIGINT);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, request_time TIMESTAMP NOT NULL,
            candidates STRUCT(item_id BIGINT)[] NOT NULL);
        CREATE TABLE item (item_id BIGINT NOT NULL, available_at TIMESTAMP NOT NULL, colour VARCHAR);
        CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
        CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
    """,
    "activity.sql": """
        SELECT user, count(*) OVER w AS events, sum(1000 // n) OVER w AS shares FROM event WHERE n IS NOT NULL
        WINDOW w AS (PARTITION BY user ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW);
    """,
    "profile.sql": """
        SELECT item_id, arg_max(colour, {'at': available_at, 'value': colour}) AS colour FROM item GROUP BY item_id;
    """,
    "ranking.sql": """
        SELECT request_id, item_id, activity.events, activity.shares, profile.colour
        FROM request LEFT JOIN activity USING (user) LEFT JOIN profile USING (item_id);
    """,
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "sql").mkdir()
    (tmp_path / "dovetail.toml").write_text(TOML)
    for name, text in SQL.items():
        (tmp_path / "sql" / name).write_text(text)
    at = pa.array([0, 36 * 3_600_000_000], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(
        pa.table({"item_id": [1, 1], "available_at": at, "colour": ["red", "blue"]}), tmp_path / "item.parquet"
    )
    return load(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> SqlOnlineStore:
    return SqlOnlineStore(f"sqlite:///{tmp_path / 'online.sqlite'}")


def feature_stage(project: Project, store: SqlOnlineStore) -> FeatureStage:
    stream = project.streams["event"]
    views = list(project.stream_views.values())
    intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
    return FeatureStage(stream, views, intake, store, dead_letter_topic="dead")


def online(project: Project, store: SqlOnlineStore, folder: Path) -> OnlineFeatures:
    def table(declared: Table) -> pa.Table:
        return pq.read_table(project.config.path(declared.path))

    registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
    versions = BatchVersions(project.batch_views, registry, OfflineStore(str(folder / "offline")), table)
    return OnlineFeatures(project.feature_set, project.stream_views, store, versions)


def event(user: str | None, minute: int, n: int | None) -> Outgoing:
    value = {"user": user, "event_time": f"1970-01-02 {minute // 60:02d}:{minute % 60:02d}:00", "n": n}
    return Outgoing("event", json.dumps(value).encode(), partition=0)


def requests(*asked: tuple[str, str | None, str, list[int]]) -> pa.Table:
    rows = [
        {"request_id": name, "user": user, "request_time": time, "candidates": [{"item_id": i} for i in items]}
        for name, user, time, items in asked
    ]
    table = pa.Table.from_pylist(rows)
    times = pa.array([np.datetime64(time, "us") for _, _, time, _ in asked], pa.timestamp("us"))
    return flatten_requests(table.set_column(2, "request_time", times))


def feed(project: Project, store: SqlOnlineStore, events: list[Outgoing], polls: int = 100) -> MemoryLog:
    log = MemoryLog({"event": 2, "dead": 1})
    log.append(events)
    asyncio.run(run_stage(feature_stage(project, store), log, max_records=lambda: polls))
    return log


def test_events_are_evaluated_once_to_be_vetted_and_folded_in(
    project: Project, store: SqlOnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []
    prepare = StreamPreparer.prepare

    def counting(self: StreamPreparer, events: pa.Table) -> PreparedColumns:
        evaluated.append(events.num_rows)
        return prepare(self, events)

    monkeypatch.setattr(StreamPreparer, "prepare", counting)
    feed(project, store, [event("u", 0, 1), event("u", 30, 10), event("v", 40, 5)])
    views = len(project.stream_views)
    assert evaluated == [3] * views
    feed(project, store, [event("u", 0, 1), event("u", 30, 10), event("v", 40, 5), event("v", 50, 6)])
    assert evaluated == [3] * views + [1] * views


def test_what_was_vetted_is_what_the_view_reads_of_the_rows_and_nothing_where_one_was_turned_away(
    project: Project,
) -> None:
    stream, views = project.streams["event"], list(project.stream_views.values())
    intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
    received = intake.read(poll_of([event("u", 0, 1).value, event("v", 40, None).value]))
    for view in views:
        known, expected = prepared_when_vetted(received, view, 0), StreamPreparer(view).prepare(received.table)
        assert known is not None
        assert known.kept.tolist() == expected.kept.tolist()
        assert known.event_time.tolist() == expected.event_time.tolist()
        assert (known.entity, known.arguments, known.filters) == (
            expected.entity,
            expected.arguments,
            expected.filters,
        )
    some = intake.read(poll_of([event("u", 0, 1).value, event("v", 40, 0).value]))
    assert some.table.num_rows == 1
    assert all(prepared_when_vetted(some, view, 0) is None for view in views)


def test_features_are_as_of_each_request(project: Project, store: SqlOnlineStore, tmp_path: Path) -> None:
    feed(project, store, [event("u", 0, 1), event("u", 30, 10), event("v", 40, 5)])
    asked = requests(
        ("a", "u", "1970-01-02T00:00", [1]), ("b", "u", "1970-01-02T00:45", [1, 2]), ("c", "w", "1970-01-02T00:45", [1])
    )
    served = online(project, store, tmp_path).serve(asked)
    assert served.answerable.all()
    assert served.features.column("events").to_pylist() == [1, 2, 2, 0]
    assert [None if s is None else int(s) for s in served.features.column("shares").to_pylist()] == [
        1000,
        1100,
        1100,
        None,
    ]
    assert served.features.column("colour").to_pylist() == ["red", "red", None, "red"]
    assert served.seen == {"activity": [3]}
    assert list(served.snapshot_columns) == ["request_id", "item_id", "events", "shares"]


def test_batch_features_change_with_the_version_in_force(
    project: Project, store: SqlOnlineStore, tmp_path: Path
) -> None:
    """The blue version became known on day 1 at noon, so the version of midnight after that is the first to have it."""
    asked = requests(
        ("a", "u", "1970-01-02T13:00", [1]), ("b", "u", "1970-01-03T00:00", [1]), ("c", "u", "1970-01-02T23:59", [1])
    )
    features = online(project, store, tmp_path)
    assert features.serve(asked).features.column("colour").to_pylist() == ["red", "blue", "red"]
    snapshot = pa.table({name: features.serve(asked).features.column(name) for name in features.snapshot_columns})
    assert features.complete(asked, snapshot).column("colour").to_pylist() == ["red", "blue", "red"]


def test_a_version_is_computed_once_and_read_again_by_another_worker(
    project: Project, store: SqlOnlineStore, tmp_path: Path
) -> None:
    asked = requests(("a", "u", "1970-01-02T13:00", [1]))
    online(project, store, tmp_path).serve(asked)
    pq.write_table(pa.table({"item_id": pa.array([], pa.int64())}), tmp_path / "item.parquet")
    assert online(project, store, tmp_path).serve(asked).features.column("colour").to_pylist() == ["red"]


def test_every_row_is_counted_and_a_row_without_value_is_a_dead_letter(project: Project, store: SqlOnlineStore) -> None:
    events = [
        event("u", 0, 1), event("u", 1, 0), event(None, 2, 1), event("u", 3, None), event("u", 200, 1), event("u", 1, 2),  # noqa: E501
    ]  # fmt: skip
    log = feed(project, store, [*events, Outgoing("event", b"{", partition=0)])
    accounts = store.accounts()
    assert not any(balance(accounts).values())
    assert {a.outcome: a.rows for a in accounts if a.rows} == {
        "read": 7, "applied": 2, "expired": 1, "unused": 1, "filtered": 1, "dead_letter": 2,
    }  # fmt: skip
    letters = log.poll("dead", 0, 0)
    assert letters is not None
    reasons = [dict(headers)["dovetail-reason"].decode() for headers in letters.headers]
    assert any("activity.sql" in reason and "1000 // n" in reason for reason in reasons)
    assert any(reason.startswith("not valid JSON") for reason in reasons)


@pytest.mark.parametrize("polls", [1, 2, 5])
def test_reading_the_log_again_changes_nothing(
    project: Project, store: SqlOnlineStore, polls: int, tmp_path: Path
) -> None:
    log = feed(project, store, [event("u", minute, 1) for minute in range(9)], polls)
    before = (
        store.accounts(),
        online(project, store, tmp_path).serve(requests(("a", "u", "1970-01-02T00:30", [1]))).features,
    )

    async def again() -> None:
        stage = feature_stage(project, store)
        assert stage.resume("event") == {0: 9}
        poll = log.poll("event", 0, 0)
        assert poll is not None
        (work,) = [work async for work in stage.handle(poll)]
        assert work.commit is not None
        work.commit()

    asyncio.run(again())
    after = (
        store.accounts(),
        online(project, store, tmp_path).serve(requests(("a", "u", "1970-01-02T00:30", [1]))).features,
    )
    assert after[0] == before[0]
    assert after[1].equals(before[1])


def test_a_zombie_cannot_write(project: Project, store: SqlOnlineStore) -> None:
    log = MemoryLog({"event": 2, "dead": 1})
    log.append([event("u", 0, 1)])

    async def both() -> None:
        zombie = feature_stage(project, store)
        zombie.resume("event")
        await run_stage(feature_stage(project, store), log)
        poll = log.poll("event", 0, 0)
        assert poll is not None
        (work,) = [work async for work in zombie.handle(poll)]
        assert work.commit is not None
        with pytest.raises(StaleCommit):
            work.commit()

    asyncio.run(both())


def test_a_request_from_before_the_state_reaches_back_is_not_answerable(
    project: Project, store: SqlOnlineStore, tmp_path: Path
) -> None:
    feed(project, store, [event("u", 0, 1), event("u", 300, 1)])
    asked = requests(("a", "u", "1970-01-02T03:59", [1]), ("b", "u", "1970-01-02T04:00", [1]))
    assert online(project, store, tmp_path).serve(asked).answerable.tolist() == [False, True]
