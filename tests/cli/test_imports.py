"""Commands that start no worker do not pay for what only a worker needs: seconds of imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.places import ROOT

#: What a worker needs to run, and definitions do not need to be read; a registry needs the stores' libraries.
OF_A_WORKER = frozenset({"aiokafka", "faust", "numba", "pyarrow.dataset", "scipy"})
OF_STORES = frozenset({"redis", "sqlalchemy"})
#: Modules of kernels may be imported; numba is when one is called.
KERNELS = frozenset({"llvmlite", "numba", "scipy"})
SCRIPT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from dovetail.cli import main
sys.argv[0] = "dovetail"
main()
"""


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], OF_A_WORKER | OF_STORES),
        (["init", "new"], OF_A_WORKER | OF_STORES),
        (["check", "-p", "project", "--json"], OF_A_WORKER | OF_STORES),
        (["check", "-p", "project", "--diff", "--json"], OF_A_WORKER),
        (["audit", "-p", "project", "--json"], KERNELS),
        (["consistency", "-p", "project", "--json"], KERNELS),
        (["join", "-p", "project", "--json"], KERNELS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_starts_no_worker_imports_nothing_of_one(
    arguments: Sequence[str], unwanted: frozenset[str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "sql", tmp_path / "project" / "sql")
    shutil.copy(ROOT / "dovetail.toml", tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stderr.splitlines()[-1])
    assert "typer" in imported, "the command has run"
    assert sorted(set(imported) & unwanted) == []
