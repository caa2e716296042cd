"""Events of several partitions folded at once leave what they leave one partition after the other."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project, load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries

PARTITIONS = 3
TOML = f"""
[streams.event]
key = "user"
partitions = {PARTITIONS}
allowed_lateness = "10m"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
SQL = {
    "schemas.sql": """
        CREATE TABLE event (user VARCHAR, event_time TIMESTAMP NOT NULL, n BIGINT);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, n BIGINT, request_time TIMESTAMP NOT NULL,
            candidates STRUCT(item_id BIGINT)[] NOT NULL);
        CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
        CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
    """,
    "activity.sql": """
        SELECT user, count(*) OVER w AS events, sum(n) OVER w AS total FROM event WHERE n IS NULL OR n > 0
        WINDOW w AS (PARTITION BY user ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW);
    """,
    "pairs.sql": """
        SELECT user, n, max(n) OVER w AS largest FROM event
        WINDOW w AS (PARTITION BY user, n ORDER BY event_time RANGE BETWEEN INTERVAL 5 MINUTE PRECEDING
            AND CURRENT ROW);
    """,
    "latest.sql": """
        SELECT user, last_distinct(list(n) OVER w, 3) AS numbers FROM event
        WINDOW w AS (PARTITION BY user ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW);
    """,
    "ranking.sql": """
        SELECT request_id, item_id, activity.events, activity.total, pairs.largest, latest.numbers
        FROM request LEFT JOIN activity USING (user) LEFT JOIN pairs USING (user, n) LEFT JOIN latest USING (user);
    """,
}
#: User, minute and number of an event; None: a message that is no event.
Event = tuple[str | None, int, int | None] | None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML)
    for name, text in SQL.items():
        (folder / "sql" / name).write_text(text)
    return load(folder)


def message(partition: int, event: Event) -> Outgoing:
    if event is None:
        return Outgoing("event", b"no event", partition=partition)
    user, minute, n = event
    time = f"1970-01-02 {minute // 60:02d}:{minute % 60:02d}:00"
    return Outgoing("event", json.dumps({"user": user, "event_time": time, "n": n}).encode(), partition=partition)


def left(project: Project, store: SqlOnlineStore, log: MemoryLog, *, together: bool, polls: int) -> object:
    """Everything that an agent leaves behind: states, positions and accounts."""
    stream, views = project.streams["event"], list(project.stream_views.values())
    intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
    stage = FeatureStage(stream, views, intake, store, dead_letter_topic="dead")
    stage.together = together
    asyncio.run(run_stage(stage, log, max_records=lambda: polls))
    states = {
        (view.name, partition, key): state
        for view in views
        for partition in range(PARTITIONS)
        for keys in [store.keys(view.name, 10_000)]
        for key, state in zip(keys, store.read_partition(view.name, partition, keys), strict=True)
    }
    accounts = store.accounts()
    assert not any(balance(accounts).values())
    return states, [store.progress(view.name) for view in views], sorted(accounts)


@settings(max_examples=tries(25))
@given(
    events=st.lists(
        st.tuples(
            st.integers(0, PARTITIONS - 1),
            st.one_of(
                st.none(),
                st.tuples(
                    st.sampled_from(["u", "v", "w", None]), st.integers(0, 300), st.sampled_from([None, 0, 1, 2])
                ),
            ),
        ),
        max_size=40,
    ),
    polls=st.integers(1, 12),
)
def test_at_once_they_leave_what_they_leave_one_after_the_other(
    events: list[tuple[int, Event]], polls: int, project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    found = []
    for together in (False, True):
        log = MemoryLog({"event": PARTITIONS, "dead": 1})
        log.append([message(partition, event) for partition, event in events])
        store = SqlOnlineStore(f"sqlite:///{folder / str(together)}.sqlite")
        found.append((left(project, store, log, together=together, polls=polls), log.end_offsets("dead")))
        store.close()
    assert found[0] == found[1]
