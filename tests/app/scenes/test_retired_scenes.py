"""A scene that is removed from the project, or renamed, after it has data: what audit says, and how a worker ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dovetail.app.reports import audit_all
from dovetail.app.reports.whole_audit import WholeAudit
from dovetail.app.worker import assemble
from dovetail.cli.stored.audit import run
from dovetail.platform.errors import StoreError
from dovetail.sdk import load
from tests.app.scenes.small_scenes import SQL, TOML, asked, at

TOPICS = 'topic = "ranked"\nsnapshots_topic = "ranked-rows"\n'


@pytest.fixture
def lived(tmp_path: Path) -> Path:
    """A project with requests, labels and samples of two scenes, and a label of no request."""
    (tmp_path / "sql").mkdir()
    toml = TOML.replace("[scenes.feed.request]\n", f"[scenes.feed.request]\n{TOPICS}")
    (tmp_path / "dovetail.toml").write_text(toml)
    for name, text in SQL.items():
        (tmp_path / "sql" / f"{name}.sql").write_text(text)
    items = [{"item_id": item, "rank": item} for item in range(5)]
    with load(tmp_path).embedded() as flow:
        flow.rank([asked("s", [{"item_id": 1}, {"item_id": 2}], query="q")])
        flow.rank([asked("f", items)], "feed")
        shown = [("s", 1), ("nobody", 1), *(("f", item) for item in range(4))]
        flow.send("exposure", [{"request_id": r, "item_id": i, "event_time": at(70)} for r, i in shown])
        flow.send("click", [{"request_id": "f", "item_id": 2, "event_time": at(80)}])
        flow.until_idle()
    return tmp_path


def turned(folder: Path, before: str, after: str) -> None:
    file = folder / "dovetail.toml"
    said = file.read_text()
    assert before in said
    file.write_text(said.replace(before, after))


def without_feed(folder: Path) -> None:
    file = folder / "dovetail.toml"
    file.write_text(file.read_text().partition("[scenes.feed.request]")[0])
    tables = folder / "sql" / "tables.sql"
    head, _, rest = tables.read_text().partition("CREATE TABLE feed_request")
    tables.write_text(head + rest.partition(");")[2])
    (folder / "sql" / "feed_features.sql").unlink()


def audited(folder: Path) -> WholeAudit:
    project = load(folder)
    worker = assemble(project)
    try:
        return audit_all(project, worker)
    finally:
        worker.stores.close()


def outcomes(audit: WholeAudit) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    for line in audit.labels.lines:
        found[line.what, line.outcome] += line.rows
    return found


def test_the_books_balance_without_a_scene_that_was_there(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = audited(lived)
    assert (before.result.unbalanced, before.result.notes) == ([], [])
    without_feed(lived)
    after = audited(lived)
    assert after.result.unbalanced == []
    assert ["feed" in note for note in after.result.notes] == [True]
    what = "exposed rows: sampled, and exposures marked as sampled, met again or standing in for an early one"
    assert [check[1:3] for check in after.result.checks if check.what == what] == [(5, 5)]
    assert outcomes(after)["exposure", "retired_scene"] == 4
    assert outcomes(after)["click", "retired_scene"] == 1
    nobody = [line.keys for line in after.labels.lines if line.outcome in ("orphaned", "pending")]
    assert nobody == [["nobody/1"]]
    assert run(lived, "", None, as_json=False) == 0
    assert "note: the scene feed is not in dovetail.toml any more" in " ".join(capsys.readouterr().out.split())


def test_a_renamed_scene_that_keeps_its_topics_ends_with_its_cause(lived: Path) -> None:
    turned(lived, "[scenes.feed.", "[scenes.home.")
    with (
        pytest.raises(StoreError, match=r"made by the scene feed .*rename \[scenes\.home\] to \[scenes\.feed\] again"),
        load(lived).embedded() as flow,
    ):
        flow.until_idle()


@pytest.mark.parametrize("ended", [False, True])
def test_a_scene_with_a_name_and_topics_that_no_other_had_begins_anew(lived: Path, *, ended: bool) -> None:
    if ended:
        turned(lived, "[scenes.feed.", "[scenes.start.")
        with pytest.raises(StoreError), load(lived).embedded() as flow:
            flow.until_idle()
        turned(lived, "[scenes.start.", "[scenes.feed.")
    turned(lived, "[scenes.feed.", "[scenes.home.")
    turned(lived, TOPICS, "")
    with load(lived).embedded() as flow:
        flow.rank([asked("h", [{"item_id": 1, "rank": 4}], request_time=at(90_000))], "home")
        flow.send("exposure", [{"request_id": "h", "item_id": 1, "event_time": at(90_010)}])
        flow.until_idle()
        assert flow.samples(scene="home").column("request_id").to_pylist() == ["h"]
    after = audited(lived)
    assert after.result.unbalanced == []
    assert outcomes(after)["exposure", "retired_scene"] == 4


def test_a_scene_with_its_old_name_goes_on_where_it_was(lived: Path) -> None:
    turned(lived, "[scenes.feed.", "[scenes.home.")
    with pytest.raises(StoreError), load(lived).embedded() as flow:
        flow.until_idle()
    turned(lived, "[scenes.home.", "[scenes.feed.")
    with load(lived).embedded() as flow:
        flow.rank([asked("g", [{"item_id": 1, "rank": 4}], request_time=at(90_000))], "feed")
        flow.send("exposure", [{"request_id": "g", "item_id": 1, "event_time": at(90_010)}])
        flow.until_idle()
        assert set(flow.samples(scene="feed").column("request_id").to_pylist()) == {"f", "g"}
    assert audited(lived).result.unbalanced == []
