"""docs/your-first-samples.md: from an empty folder, every block of it is run as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import forked
from tests.places import ROOT

COMMAND = Path(sys.executable).parent / "dovetail"
PAGE = ROOT / "docs" / "your-first-samples.md"


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line of a shell, with the command beside this interpreter in its PATH; what is no pipe is forked."""
    if "|" not in line:
        name, *arguments = shlex.split(line)
        assert name == COMMAND.name
        return forked.run([COMMAND, *arguments], cwd=folder, timeout=300)
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_every_block_of_the_page_runs_from_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    printed = {}
    for kind, text in re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if kind == "python":
            subprocess.run([sys.executable, "-c", text], cwd=folder, check=True, timeout=60)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            assert line.startswith("$ ")
            done = typed(line[2:], folder)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            printed[" ".join(line.split()[1:4])] = done.stdout
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "dovetail.toml", "log.csv", "samples.parquet", "sql", "tried",
    ]  # fmt: skip
    assert len([*(folder / "sql").iterdir(), folder / "dovetail.toml"]) == 5
    assert "no dead letters" in printed["dovetail replay --until-idle"]
    assert pq.read_table(folder / "samples.parquet").num_rows == 600 * 8
    assert "holds" in printed["dovetail consistency"]
    assert "holds" in printed["dovetail audit"]
    assert "snapshots: 2 rows" in printed["dovetail snapshots --key"]
    assert printed["dovetail dead-letters"] == "dead letters: no rows\n"
    ended = typed("dovetail evaluate --model tried --json", folder)
    assert json.loads(ended.stdout)["total"]["auc"] > 0.5
