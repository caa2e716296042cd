"""A scene is asked over HTTP, and from Python, by its name; what it is told is what its snapshots say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.reports import audit_all, consistency_of
from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.sdk import load
from tests.api.running import Running, on_a_worker

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
TOML = """
name = "calls"
[storage]
state = "state"
[streams.behaviour]
key = "user_id"
[request]
feature_set = "search"
[labels]
window = "15m"
[labels.streams.exposure]
[labels.streams.click]
[api]
port = 0
[scenes.feed.request]
table = "feed_request"
feature_set = "feed_features"
unique_within = "1h"
[scenes.feed.labels]
window = "1h"
"""
SQL = {
    "tables": """
CREATE TABLE behaviour (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL, query VARCHAR,
    candidates STRUCT(item_id BIGINT)[] NOT NULL
);
CREATE TABLE feed_request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT, rank INTEGER)[] NOT NULL
);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
""",
    "activity": """
SELECT user_id, count(*) OVER w AS events FROM behaviour
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
""",
    "search": "SELECT request_id, item_id, activity.events, query FROM request LEFT JOIN activity USING (user_id)",
    "feed_features": """
SELECT request_id, item_id, activity.events AS seen, f.rank + 1 AS place
FROM feed_request f LEFT JOIN activity USING (user_id)
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sql").mkdir()
    (tmp_path / "dovetail.toml").write_text(TOML)
    for name, text in SQL.items():
        (tmp_path / "sql" / f"{name}.sql").write_text(text)
    return tmp_path


def at(second: int) -> str:
    return (NOON + timedelta(seconds=second)).isoformat()


def asked(name: str, candidates: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"request_id": name, "user_id": "u", "request_time": at(60), "candidates": candidates, **more}


def test_each_scene_has_routes(folder: Path) -> None:
    events = [{"user_id": "u", "event_time": at(second)} for second in range(3)]

    async def calls(running: Running) -> None:
        assert (await running.post("/v1/events/behaviour", events)).status_code == 200
        await running.applied("behaviour")
        search = await running.post("/v1/rank?features=true", asked("s", [{"item_id": 1}], query="q"))
        feed = await running.post("/v1/rank/feed?features=true", asked("f", [{"item_id": 1, "rank": 4}]))
        assert (search.status_code, feed.status_code) == (200, 200)
        assert search.json()["features"] == {"events": [3], "query": ["q"]}
        assert feed.json()["features"] == {"seen": [3], "place": [5]}
        again = await running.post("/v1/rank/feed", asked("f", [{"item_id": 1, "rank": 4}]))
        assert again.json()["scores"] == feed.json()["scores"]
        now = await running.post("/v1/features/feed", asked("x", [{"item_id": 1, "rank": 7}]))
        assert now.json()["features"]["place"] == [8]
        for path, said in (
            ("rank/nope", "there is no scene 'nope'; [scenes] has feed;"),
            ("features/nope", "there is no scene or streaming view 'nope'; [scenes] has feed; the views are activity;"),
        ):
            unknown = await running.post(f"/v1/{path}", asked("n", [{"item_id": 1}]))
            assert (unknown.status_code, said in unknown.json()["error"]) == (404, True)
        paths = (await running.client.get("/v1/openapi.json")).json()["paths"]
        assert {"/v1/rank", "/v1/rank/feed", "/v1/features/feed", "/v1/features/activity"} <= set(paths)
        assert (await running.client.get("/v1/models")).json()["scenes"]["feed"]["model"] is None
        fresh = (await running.client.get("/v1/freshness")).json()
        assert fresh["scenes"]["feed"]["watermark"] == fresh["requests"]["watermark"]

    on_a_worker(folder, calls)


def test_a_scene_of_a_project_is_a_project(folder: Path) -> None:
    project = load(folder)
    feed = project.scene("feed")
    with feed.embedded() as flow:
        flow.send("behaviour", [{"user_id": "u", "event_time": at(second)} for second in range(3)])
        flow.until_idle(release=False)
        ranked = flow.rank([asked("f", [{"item_id": 1, "rank": 4}, {"item_id": 2, "rank": 5}])])
        assert ranked.column("place").to_pylist() == [5, 6]
        assert project.rank([asked("s", [{"item_id": 1}], query="q")]).column("events").to_pylist() == [3]
        assert feed.rank([asked("g", [{"item_id": 1, "rank": 0}])]).column("place").to_pylist() == [1]
        assert flow.features([asked("x", [{"item_id": 1}], query="q")], scene="").column("query").to_pylist() == ["q"]
        for name, items in (("f", (1, 2)), ("s", (1,))):
            shown = [{"request_id": name, "item_id": item, "event_time": at(70)} for item in items]
            flow.send("exposure", shown)
        flow.send("click", [{"request_id": "f", "item_id": 2, "event_time": at(80)}])
        flow.until_idle()
        labels = flow.samples().sort_by("item_id")
        assert labels.select(["request_id", "label", "place"]).to_pylist() == [
            {"request_id": "f", "label": 0, "place": 5},
            {"request_id": "f", "label": 1, "place": 6},
        ]
        assert flow.samples(scene="").column("request_id").to_pylist() == ["s"]
    assert feed.samples().num_rows == 2
    assert project.samples().num_rows == 1
    past = feed.features([asked("p", [{"item_id": 1, "rank": 1}])])
    assert past.select(["seen", "place"]).to_pylist() == [{"seen": 3, "place": 2}]
    stores = open_stores(project.config)
    try:
        for scene in project.scenes:
            verdict = consistency_of(scene, stores)
            assert (verdict.mismatched, verdict.compared > 0) == (0, True)
    finally:
        stores.close()


def test_an_id_that_two_scenes_have_is_found_by_the_audit(folder: Path) -> None:
    project = load(folder)
    for name, holds in (("other", True), ("same", False)):
        with project.embedded() as flow:
            flow.rank([asked("same", [{"item_id": 1}], query="q")] if holds else [asked("more", [{"item_id": 1}])])
            flow.rank([asked(name, [{"item_id": 1, "rank": 4}])], "feed")
            flow.send("exposure", [{"request_id": name, "item_id": 1, "event_time": at(70)}])
            flow.until_idle()
        worker = assemble(project)
        try:
            result = audit_all(project, worker, scene="feed").result
            wrong = result.unbalanced
            assert bool(wrong) != holds
            assert holds or "exposure labels of partition 0: read, and outcomes: 2 and 3" in wrong
            assert ["were read: same;" in note for note in result.notes] == ([] if holds else [True])
        finally:
            worker.stores.close()
