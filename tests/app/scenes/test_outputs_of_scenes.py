"""What is written of one scene is not written over or gone on with by another: exports, backfills, readers' places."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.storage import Stores, open_stores
from dovetail.cli.stored import backfill
from dovetail.features import Project
from dovetail.platform.errors import ConfigError, StateError
from dovetail.samples.day_exports import SampleExport, export_samples
from dovetail.samples.reader import Reader
from dovetail.sdk import load
from tests.app.scenes.small_scenes import asked, at, write_project

#: A scene that asks as the feed does, with the features of the feed.
SECOND_FEED = """
[scenes.feed2.request]
table = "feed_request"
feature_set = "feed_features"
[scenes.feed2.labels]
window = "1h"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of three scenes, each with a sample that is archived."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_project(folder, SECOND_FEED + '[openlineage]\nfile = "lineage.jsonl"\n')
    project = load(folder)
    with project.embedded() as flow:
        flow.rank([asked("s", [{"item_id": 1}], query="q")])
        for scene in ("feed", "feed2"):
            flow.rank([asked(scene, [{"item_id": 1, "rank": 4}])], scene)
        shown = [{"request_id": name, "item_id": 1, "event_time": at(70)} for name in ("s", "feed", "feed2")]
        flow.send("exposure", shown)
        flow.until_idle()
    return project


@pytest.fixture
def stores(project: Project) -> Iterator[Stores]:
    stores = open_stores(project.config)
    yield stores
    stores.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("first", "other"), [("", "feed"), ("feed", ""), ("feed", "feed2")])
def test_a_folder_has_the_export_of_one_scene(project: Project, tmp_path: Path, first: str, other: str) -> None:
    out = tmp_path / "out"
    mine = project.scene(first)
    assert [day.fresh for day in export_samples(mine, SampleExport(), out)] == [True]
    before = contents(out)
    assert ("scene" in json.loads(before["_export.json"])["export"]) == bool(first)
    with pytest.raises(ConfigError, match="has an export with another scene: give a folder of its own"):
        export_samples(project.scene(other), SampleExport(), out)
    assert contents(out) == before
    assert [day.fresh for day in export_samples(mine, SampleExport(), out)] == [False]


@pytest.mark.parametrize(("first", "other"), [("feed", "feed2"), ("feed2", "feed")])
def test_a_folder_has_the_backfill_of_one_scene(
    project: Project, stores: Stores, tmp_path: Path, first: str, other: str
) -> None:
    out = tmp_path / "out"
    request = BackfillRequest("feed_features", str(out))
    assert open_backfill(project.scene(first), stores, request).run().rows == 1
    before = contents(out)
    with pytest.raises(ConfigError, match="has a backfill that differs in scene; choose another folder"):
        open_backfill(project.scene(other), stores, request).run()
    assert contents(out) == before
    assert len(open_backfill(project.scene(first), stores, request).run().done_before) == 1


def test_a_backfill_begun_before_folders_knew_scenes_goes_on(project: Project, stores: Stores, tmp_path: Path) -> None:
    request = BackfillRequest("search", str(tmp_path / "out"))
    assert open_backfill(project, stores, request).run().rows == 1
    with closing(sqlite3.connect(project.config.root / "state" / "registry.sqlite")) as registry, registry:
        (job,) = registry.execute("SELECT job FROM backfills").fetchone()
        without = {name: value for name, value in json.loads(job).items() if name != "scene"}
        registry.execute("UPDATE backfills SET job = ?", (json.dumps(without, sort_keys=True),))
    assert len(open_backfill(project, stores, request).run().done_before) == 1


@pytest.mark.parametrize(("scene", "features"), [("", "search"), ("feed", "feed_features"), ("feed2", "feed_features")])
def test_lineage_has_a_job_for_the_backfill_of_each_scene(
    project: Project, tmp_path: Path, scene: str, features: str
) -> None:
    root = project.config.root
    request = BackfillRequest(features, str(tmp_path / "out"))
    assert backfill.run(root, request, first=None, last=None, explain=False, as_json=True, scene=scene) == 0
    told = [json.loads(line) for line in (root / "lineage.jsonl").read_text().splitlines()]
    assert {event["job"]["name"] for event in told} == {f"calls.backfill.{features}" + (f".{scene}" if scene else "")}


@pytest.mark.parametrize(("first", "other"), [("", "feed"), ("feed", ""), ("feed", "feed2")])
def test_a_reader_goes_on_in_its_own_scene(project: Project, first: str, other: str) -> None:
    with Reader(project.scene(first)) as reader:
        assert sum(batch.num_rows for batch in reader) == 1
        place = reader.state_dict()
    with Reader(project.scene(other)) as reader, pytest.raises(StateError, match="the state is of a reader with scene"):
        reader.load_state_dict(place)
    if not first:
        del place["scene"]  # as it was saved before readers knew scenes
    with Reader(project.scene(first)) as reader:
        reader.load_state_dict(place)
        assert list(reader) == []
