"""``docs/scenes.md``: its project loads, and what its example asks is answered."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.features import load
from tests.places import ROOT

PAGE = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_scene_of_the_page_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    toml = (ROOT / "dovetail.toml").read_text(encoding="utf-8")
    (tmp_path / "dovetail.toml").write_text(f"{toml}\n{block('toml')}", encoding="utf-8")
    table, features = block("sql").split("SELECT", 1)
    (tmp_path / "sql" / "feed_request.sql").write_text(table, encoding="utf-8")
    (tmp_path / "sql" / "feed.sql").write_text(f"SELECT{features}", encoding="utf-8")
    project = load(tmp_path)
    assert [scene.config.model.name for scene in project.scenes if scene.config.model] == ["ranking", "feed"]
    monkeypatch.chdir(tmp_path)
    said: dict[str, pa.Table] = {}
    exec(compile(block("python"), "docs/scenes.md", "exec"), said)
    assert said["ranked"].select(["item_id", "rank", "clicks"]).to_pylist() == [
        {"item_id": 7, "rank": 1, "clicks": 0},
        {"item_id": 9, "rank": 2, "clicks": 0},
    ]
    assert said["samples"].num_rows == 0
