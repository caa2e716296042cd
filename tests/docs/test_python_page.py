"""The examples of docs/python.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dovetail.sdk import ProjectClient
from tests.docs.demo_project import demo_project
from tests.places import ROOT

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def _run(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(demo_project(folder))
    namespace: dict[str, Any] = {}
    exec(compile(block, "python.md", "exec"), namespace)
    return namespace


def test_a_project_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = BLOCKS
    names = _run(block, tmp_path, monkeypatch)
    assert names["past"].to_pylist() == [{"request_id": "r1", "item_id": item, "user_clicks_1h": 1} for item in (7, 8)]
    assert names["ranked"].column("user_clicks_1h").to_pylist() == [1, 1]
    assert names["shown"].to_pylist() == [{"request_id": "r1", "item_id": 7, "label": 0}]


def test_the_flow_runs_in_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, block = BLOCKS
    names = _run(block, tmp_path, monkeypatch)
    assert names["samples"].to_pylist() == [{"request_id": "r1", "item_id": 7, "label": 0, "user_clicks_1h": 1}]
    assert names["ranked"].column("user_clicks_1h").to_pylist() == [1, 1]
    assert "user_clicks_1h" in capsys.readouterr().out


def test_its_table_has_the_calls_there_are() -> None:
    told = set(re.findall(r"`(\w+)\(", "".join(line for line in PAGE.splitlines() if line.startswith("| `"))))
    assert told == {name for name in vars(ProjectClient) if not name.startswith("_")} | {"evaluate", "describe"}
