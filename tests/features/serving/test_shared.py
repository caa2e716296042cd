"""Candidates of one request share what reads nothing of them: computed once, equal to computing it for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project, load
from dovetail.features.plan.definitions import FeatureSet
from dovetail.features.plan.request import CANDIDATE, flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stored.consistency import equal_bits
from dovetail.platform.errors import WireError
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries

TOML = """
[streams.event]
key = "user"
allowed_lateness = "1h"
[tables.person]
path = "person.parquet"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
WINDOW = "ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)"
SQL = {
    "schemas": """
        CREATE TABLE event (user VARCHAR, item_id BIGINT, kind VARCHAR, event_time TIMESTAMP NOT NULL);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, request_time TIMESTAMP NOT NULL,
            "users.n" BIGINT, divisor BIGINT,
            candidates STRUCT(item_id BIGINT, kind VARCHAR, "users.k" BIGINT)[] NOT NULL);
        CREATE TABLE person (user VARCHAR, available_at TIMESTAMP NOT NULL, home VARCHAR);
        CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
        CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
    """,
    "users": f"""
        SELECT user, count(*) OVER w AS events, arg_max(item_id, event_time, 5) OVER w AS items,
               histogram(kind) OVER w AS kinds, max(item_id) OVER w AS greatest
        FROM event WINDOW w AS (PARTITION BY user {WINDOW}
    """,
    "sorts": f"""
        SELECT kind, count(*) OVER w AS events, arg_max(item_id, event_time, 3) OVER w AS items
        FROM event WINDOW w AS (PARTITION BY kind {WINDOW}
    """,
    "pairs": f"SELECT user, kind, count(*) OVER w AS n FROM event WINDOW w AS (PARTITION BY user, kind {WINDOW}",
    "people": "SELECT user, list(home ORDER BY home) AS homes FROM person GROUP BY user",
    "ranking": """
        SELECT request_id, item_id, request_time, users.events, users.items, users.kinds, users.greatest - 1 AS before,
               coalesce(users.events, 0) + 1 AS more, list_sum(users.items) AS total, [users.items, [divisor]] AS both,
               list_contains(users.items, item_id) AS seen, users.greatest = item_id AS newest,
               users.kinds[kind] AS of_kind, sorts.events AS sort_events, sorts.items AS sort_items, pairs.n,
               request."users.n" AS odd, request."users.k" AS own, upper(user) AS loud, people.homes,
               len(people.homes) AS many, 100 // divisor AS share, 1 AS one,
               {'item': item_id, 'all': users.items} AS mix
        FROM request LEFT JOIN users USING (user) LEFT JOIN sorts USING (kind) LEFT JOIN pairs USING (user, kind)
             LEFT JOIN people USING (user)
    """,
}
BASE = np.datetime64("2024-01-01T00:00:00", "us")


def people(_: object) -> pa.Table:
    at = pa.array([BASE, BASE], pa.timestamp("us"))
    return pa.table({"user": ["u", "u"], "available_at": at, "home": ["oslo", "bern"]})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, OnlineFeatures]:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML)
    for name, text in SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(text)
    project = load(folder)
    store = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
    stream, views = project.streams["event"], list(project.stream_views.values())
    log = MemoryLog({"event": 1, "dead": 1})
    rows = [
        ("u", 1, "a", 0),
        ("u", 2, "b", 1),
        ("v", 3, "a", 2),
        ("u", 1, None, 3),
        ("u", None, "b", 4),
        (None, 9, "a", 5),
    ]
    log.append(
        [
            Outgoing(
                "event",
                json.dumps({"user": u, "item_id": i, "kind": k, "event_time": f"2024-01-01 00:0{m}:00"}).encode(),
            )
            for u, i, k, m in rows
        ]
    )
    intake = Intake(stream.schema, stream.event_time, None)
    asyncio.run(run_stage(FeatureStage(stream, views, intake, store, dead_letter_topic="dead"), log))
    registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
    versions = BatchVersions(project.batch_views, registry, OfflineStore(str(folder / "offline")), people)
    return project, OnlineFeatures(project.feature_set, project.stream_views, store, versions)


def flat(project: Project, asked: Sequence[tuple[str | None, int, int, Sequence[tuple[int, str | None]]]]) -> pa.Table:
    rows = [
        {
            "request_id": f"r{number}", "user": user, "users.n": number, "divisor": divisor,
            "request_time": (BASE + np.timedelta64(minute, "m")).item(),
            "candidates": [{"item_id": i, "kind": kind, "users.k": i + number} for i, kind in items],
        }
        for number, (user, minute, divisor, items) in enumerate(asked)
    ]  # fmt: skip
    schema = project.request.arrow
    return flatten_requests(pa.table([pa.array([r[f.name] for r in rows], f.type) for f in schema], schema=schema))


candidates = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "c", None])), min_size=0, max_size=6)
request = st.tuples(st.sampled_from(["u", "v", "w", None]), st.integers(0, 90), st.integers(1, 9), candidates)


@settings(max_examples=tries(25), deadline=None)
@given(asked=st.lists(request, min_size=1, max_size=5))
def test_values_are_those_of_each_candidate_by_itself(
    world: tuple[Project, OnlineFeatures], asked: list[tuple[str | None, int, int, list[tuple[int, str | None]]]]
) -> None:
    project, online = world
    rows = flat(project, asked)
    once, each = online.serve(rows), online.serve(rows.drop_columns([CANDIDATE]))
    assert once.seen == each.seen
    assert once.answerable.tolist() == each.answerable.tolist()
    assert once.features.schema.equals(each.features.schema)
    assert once.features.schema.types == project.feature_set.schema.types
    for name in once.features.column_names:
        assert equal_bits(once.features.column(name), each.features.column(name)).all(), name


def test_what_candidates_share_is_held_once(world: tuple[Project, OnlineFeatures]) -> None:
    project, online = world
    served = online.serve(flat(project, [("u", 5, 1, [(i, "a") for i in range(50)]), ("v", 5, 1, [(1, "a")])]))
    shared = {field.name for field in served.encoded.schema if pa.types.is_dictionary(field.type)}
    assert shared == {"items", "kinds", "both", "homes"}
    alone = online.serve(flat(project, [("u", 5, 1, [(1, "a")])])).encoded
    assert alone.schema.equals(served.encoded.schema), "also of a request with one candidate"
    assert [len(served.encoded.column(name).chunk(0).dictionary) for name in sorted(shared)] == [2] * 4
    assert not any(pa.types.is_dictionary(type_) for type_ in served.features.schema.types)


def test_the_columns_that_read_nothing_of_a_candidate(world: tuple[Project, OnlineFeatures]) -> None:
    features: FeatureSet = world[0].feature_set
    own = {"item_id", "seen", "newest", "of_kind", "sort_events", "sort_items", "n", "own", "mix"}
    assert {c.name for c in features.columns} - {c.name for c in features.shared_columns()} == own


def test_an_expression_without_value_names_the_same_row(world: tuple[Project, OnlineFeatures]) -> None:
    project, online = world
    rows = flat(project, [("u", 5, 1, [(1, "a")] * 3), ("u", 5, 0, [(1, "a")] * 2)])
    said = []
    for asked in (rows, rows.drop_columns([CANDIDATE])):
        with pytest.raises(WireError) as raised:
            online.serve(asked)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert "share: row 3: " in said[0]
