"""The examples of docs/training.md run, in the order they stand in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dovetail.cli.main import app
from tests.places import ROOT

PAGE = ROOT / "docs" / "training.md"


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") == 5
    names: dict[str, Any] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        commands = [shlex.split(line.removeprefix("$ dovetail")) for line in text.splitlines()]
        assert len(commands) == 10
        for command in commands:
            result = CliRunner().invoke(app, command, catch_exceptions=False)
            assert result.exit_code == 0, (command, result.output)
    assert (tmp_path / "evaluation.html").stat().st_size > 1000
