"""docs/backfill.md: every command in it is run, in a project such as it describes."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from dovetail.cli import main
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.demo.shipped import project_folder
from tests.places import ROOT

DOC = ROOT / "docs" / "backfill.md"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's project after a short demo, and its folder the working folder."""
    log = simulate(SimulatorConfig(requests=60, seed=7, days=1))
    result = asyncio.run(run_demo(log, tmp_path / "keep", on_progress=lambda _: None))
    assert result.passed
    shutil.copytree(project_folder() / "sql", tmp_path / "sql")
    toml = (project_folder() / "dovetail.toml").read_text(encoding="utf-8")
    toml = toml.replace('state = ".dovetail"', 'state = "keep"').replace(
        '".dovetail/item.parquet"', '"keep/item.parquet"'
    )
    (tmp_path / "dovetail.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```(console|sql)\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)
    printed = {}
    for kind, text in blocks:
        if kind == "sql":
            (project / "sql" / "extra.sql").write_text(text, encoding="utf-8")
            continue
        command = text.removeprefix("$ ").strip()
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code, command
        printed[command] = capsys.readouterr().out
    assert len(printed) == 6
    again = next(text for command, text in printed.items() if command.endswith("--json"))
    assert json.loads(again)["written"] == []
    assert json.loads(again)["done_before"]
    past = ds.dataset(project / "past", format="parquet").to_table()
    assert past.column_names == ["request_id", "item_id", "request_time", "user_clicks_1h", "item_ctr_1d"]
    wide = ds.dataset(project / "wide", format="parquet").to_table()
    assert {"label", "user_clicks_1h", "user_clicks_1d", "user_ctr_1d"} <= set(wide.column_names)
    assert wide.num_rows > 0
    assert "holds" in printed["dovetail consistency"]
