"""docs/your-first-samples.md: from an empty folder, every block of it is run as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.places import ROOT

PAGE = ROOT / "docs" / "your-first-samples.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs_from_an_empty_folder(tmp_path: Path) -> None:
    # Beside this interpreter, as it would be in a PATH.
    command = tmp_path / "bin" / "dovetail"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from dovetail.cli import main; main()' \"$@\"\n")
    command.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    printed = {}
    for kind, text in re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if kind == "python":
            subprocess.run([sys.executable, "-c", text], cwd=folder, check=True, timeout=60)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            assert line.startswith("$ ")
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {line[2:]}"],
                cwd=folder,
                env=os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=300,
            )
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
    ended = subprocess.run(
        [str(command), "evaluate", "--model", "tried", "--json"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert json.loads(ended.stdout)["total"]["auc"] > 0.5
