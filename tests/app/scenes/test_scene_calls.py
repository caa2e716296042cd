"""A scene is asked over HTTP, and from Python, by its name; what it is told is what its snapshots say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.app.reports import audit_all, consistency_of
from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble
from dovetail.sdk import load
from tests.api.running import Running, on_a_worker
from tests.app.scenes.small_scenes import asked, at, write_project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


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
