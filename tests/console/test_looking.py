"""Requests, values, scores and labels are told as reports over the whole run have them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.app.looking.definition_entries import Note, catalogue_of, note_of
from dovetail.app.looking.lineage import lineage_of
from dovetail.app.looking.one_request import OneRequest, find_request
from dovetail.app.looking.one_value import trace_value
from dovetail.app.reports import audit_archived_labels
from dovetail.console.layered import picture_of
from dovetail.console.looked import Looked
from dovetail.demo.kept_run import project_of_run
from dovetail.features import Project, load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError
from tests.app.small_project import run as run_small
from tests.app.small_project import write_project
from tests.console.shown_run import with_looked


@pytest.fixture(scope="module")
def project(run_folder: Path) -> Project:
    return project_of_run(run_folder)


async def requests_of(looked: Looked, count: int) -> list[OneRequest]:
    """Some requests of the archive, and one that became samples of a published model."""
    rows = read_dataset(looked.stores.registry, looked.stores.offline, "snapshots")
    ids = pc.unique(rows.column("request_id")).to_pylist()
    chosen = [*random.Random(5).sample(ids, count), ids[-1]]
    return [await find_request(looked.project, looked.stores, looked.topics, each) for each in chosen]


def test_a_request_has_the_rows_that_the_archive_has_of_it(project: Project) -> None:
    async def look(looked: Looked) -> None:
        for dataset, of in (("snapshots", "snapshots"), ("samples", "samples")):
            whole = read_dataset(looked.stores.registry, looked.stores.offline, dataset)
            for request in await requests_of(looked, 3):
                found: pa.Table = getattr(request, of)
                mine = whole.filter(pc.equal(whole.column("request_id"), request.request_id))
                assert found.num_rows == mine.num_rows
                if mine.num_rows:
                    assert found.select(mine.column_names).equals(mine.combine_chunks())
        nobody = await find_request(looked.project, looked.stores, looked.topics, "nobody")
        assert (nobody.snapshots.num_rows, nobody.samples.num_rows, nobody.complete) == (0, 0, True)

    with_looked(project, look)


def test_fates_of_labels_are_those_of_the_audit(project: Project) -> None:
    async def look(looked: Looked) -> None:
        whole, _ = audit_archived_labels(looked.project, looked.stores)
        for request in await requests_of(looked, 8):
            fates, outcomes = await asyncio.to_thread(looked.fates.of, request)
            rows = whole.rows.filter(pc.equal(whole.rows.column("request_id"), request.request_id)).to_pylist()
            told = {(f.kind, f.item_id, f.partition, f.offset, f.row, f.outcome) for f in fates}
            names = ("what", "item_id", "partition", "offset", "row", "outcome")
            assert told == {tuple(r[n] for n in names) for r in rows if r["what"] != "snapshots"}
            assert Counter(outcomes) == Counter(r["outcome"] for r in rows if r["what"] == "snapshots")
            assert all(fate.effective >= fate.event_time for fate in fates)

    with_looked(project, look)


def test_scores_taken_apart_are_the_scores_that_were_served(project: Project) -> None:
    async def look(looked: Looked) -> None:
        versions = set()
        for request in await requests_of(looked, 8):
            for place in range(0, request.snapshots.num_rows, 9):
                snapshot, sample = request.snapshots.slice(place, 1), request.sample_of(place)
                row, missing = looked.scores.features_of(snapshot, sample)
                assert missing == ""
                parts = looked.scores.of(snapshot, row)
                if parts.version and not parts.why_not:
                    assert parts.same
                    assert parts.margin == pytest.approx(sum(each["contribution"] for each in parts.inputs))
                    versions.add(parts.version)
                else:
                    assert parts.inputs == ()
                    assert parts.why_not
        assert versions, "a request was answered by a version that is still there"

    with_looked(project, look)


def test_values_are_made_of_the_events_that_they_are_said_to_have_seen(project: Project) -> None:
    """Features that are a count of a view's, without more, count the events; averages are those of the events."""
    counts = {"user_clicks_1h", "user_carts_7d", "user_orders_7d"}

    async def look(looked: Looked) -> None:
        counted = 0
        for request in await requests_of(looked, 6):
            snapshot = request.snapshots.slice(3, 1)
            row, _ = looked.scores.features_of(snapshot, request.sample_of(3))
            for feature in sorted(counts):
                traced = trace_value(looked.project, looked.stores, snapshot, row, feature)
                (part,) = traced.parts
                assert part.events is not None
                assert part.events.total == traced.value
                counted += part.events.total
            traced = trace_value(looked.project, looked.stores, snapshot, row, "item_price")
            (part,) = traced.parts
            assert part.events is not None
            prices = [price for price in part.events.events.column("price").to_pylist() if price is not None]
            assert traced.value == (pytest.approx(float(sum(prices)) / len(prices)) if prices else None)
            counted += len(prices)
            with pytest.raises(ConfigError, match="has no column 'nothing'"):
                trace_value(looked.project, looked.stores, snapshot, row, "nothing")
        assert counted

    with_looked(project, look)


def test_the_catalogue_has_comments_versions_and_uses(project: Project) -> None:
    async def look(looked: Looked) -> None:
        entries = {entry.described.name: entry for entry in catalogue_of(looked.project, looked.stores)}
        assert set(entries) == {"item_stats", "user_activity", "item_profile", "ranking"}
        view = entries["user_activity"]
        assert view.note.description.startswith("Streaming view: what a user did lately.")
        assert view.record is not None
        assert view.record.version == 1
        assert "snapshots" in {use.dataset for use in view.uses}
        assert entries["item_profile"].versions

    with_looked(project, look)


def test_comments_name_owners_and_tags(tmp_path: Path) -> None:
    file = tmp_path / "view.sql"
    file.write_text("-- far away\n\n-- Counts what\n-- users do.\n-- owner: ranking, ads\n-- tags: user\nSELECT 1\n")
    assert note_of(file, 7) == Note("Counts what users do.", ("ranking", "ads"), ("user",))
    assert note_of(file, 3) == Note()
    assert note_of(tmp_path / "gone.sql", 3) == Note()


def test_lineage_goes_from_columns_of_streams_to_inputs_of_the_model(project: Project) -> None:
    whole = lineage_of(project, project.feature_set)
    part = whole.through("feature:ranking:price_to_usual")
    assert {f"{node.layer} {node.owner}.{node.name}" for node in part.nodes} == {
        *(f"source behaviour.{name}" for name in ("action", "event_time", "item_id", "price", "user_id")),
        "view item_stats.avg_price_1d",
        "view user_activity.avg_clicked_price_7d",
        "feature ranking.price_to_usual",
        "input ranking.price_to_usual (bucketed)",
    }
    assert len(part.edges) == 10
    down = whole.through("source:request:segment")
    assert {node.name for node in down.nodes if node.layer == "feature"} == {"segment", "segment_category"}
    assert whole.through("feature:ranking:nothing").nodes == []
    picture = picture_of(part)
    assert len(picture.boxes) == 9
    assert all(box.x + box.width <= picture.width and box.y + box.height <= picture.height for box in picture.boxes)
    assert len({(box.x, box.y) for box in picture.boxes}) == 9


def test_a_run_may_be_moved_and_other_folders_are_none(run_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "settings.json").write_text((run_folder / "settings.json").read_text())
    assert project_of_run(moved).config.storage.state == moved
    with pytest.raises(ConfigError, match="is no folder of a demo's run; `dovetail demo --keep"):
        project_of_run(tmp_path)


def test_labels_without_a_request_are_told_where_they_were_given(tmp_path: Path) -> None:
    write_project(tmp_path)
    run_small(tmp_path)

    async def look(looked: Looked) -> None:
        request = await find_request(looked.project, looked.stores, looked.topics, "second")
        fates, outcomes = await asyncio.to_thread(looked.fates.of, request)
        assert [(fate.kind, fate.item_id, fate.outcome) for fate in fates] == [
            ("exposure", "1", "sampled"), ("exposure", "4", "sampled"), ("click", "1", "sampled"),
        ]  # fmt: skip
        assert outcomes == ["sampled", "sampled"]
        third = await find_request(looked.project, looked.stores, looked.topics, "third")
        fates, _ = await asyncio.to_thread(looked.fates.of, third)
        assert [(fate.kind, fate.outcome) for fate in fates] == [
            ("exposure", "sampled"), ("exposure", "duplicate"), ("click", "corrected"),
        ]  # fmt: skip
        assert fates[2].effective > fates[2].event_time, "it came out of order"

    with_looked(load(tmp_path), look)
