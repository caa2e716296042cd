"""A log whose requests are all of a scene is replayed without any of the scene without a name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dovetail.app.reports import audit_all, consistency_of
from dovetail.app.reports.archived import archived_samples, archived_snapshots
from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from tests.app.scenes.small_scenes import asked, at, write_project

ASKED = 6


def write_rows(file: Path, rows: list[dict[str, object]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_requests_of_a_scene_alone_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_project(folder)
    names = [f"f{number}" for number in range(ASKED)]
    requests = [
        asked(name, [{"item_id": 1, "rank": 4}, {"item_id": 2, "rank": 5}]) | {"request_time": at(600 * number)}
        for number, name in enumerate(names)
    ]
    files = {
        "--stream": f"behaviour={tmp_path / 'events.jsonl'}",
        "--scene": f"feed={write_rows(tmp_path / 'feed.jsonl', requests)}",
        "--labels": f"exposure={tmp_path / 'shown.jsonl'}",
    }
    # An event before each request, and one behind it that it must not see.
    times = [600 * number + second for number in range(ASKED) for second in (-5, 5)]
    write_rows(tmp_path / "events.jsonl", [{"user_id": "u", "event_time": at(time)} for time in times])
    shown = [{"request_id": n, "item_id": 1, "event_time": at(600 * number + 9)} for number, n in enumerate(names)]
    write_rows(tmp_path / "shown.jsonl", shown)
    options = [part for pair in files.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["dovetail", "replay", *options, "--until-idle", "--json", "-p", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert (list(said["inputs"]), said["dead_letters"]) == (["requests.feed", "behaviour", "exposure"], 0)
    project = load(folder)
    worker = assemble(project)
    try:
        snapshots = archived_snapshots(worker.stores, scene="feed")
        seen = dict(zip(snapshots.column("request_id").to_pylist(), snapshots.column("seen").to_pylist(), strict=True))
        assert seen == {name: 2 * number + 1 for number, name in enumerate(names)}
        assert sorted(archived_samples(worker.stores, "", "feed").column("request_id").to_pylist()) == names
        verdict = consistency_of(project.scene("feed"), worker.stores)
        assert (verdict.mismatched, verdict.compared > 0) == (0, True)
        audit = audit_all(project, worker, "", "feed")
        assert audit.result.balanced, audit.result.unbalanced
    finally:
        worker.stores.close()
