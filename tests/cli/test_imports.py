"""Commands that start no worker do not pay for what only a worker needs: seconds of imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.places import ROOT

#: Libraries that a worker needs to run, and definitions do not need to be read.
OF_A_WORKER = ("aiokafka", "faust", "numba", "pyarrow.dataset", "redis", "scipy", "sqlalchemy")
SCRIPT = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from dovetail.cli import main
sys.argv[0] = "dovetail"
main()
"""


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--json"]], ids=" ".join)
def test_a_command_that_starts_no_worker_imports_nothing_of_one(arguments: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stderr.splitlines()[-1])
    assert "typer" in imported, "the command has run"
    assert sorted(set(imported) & set(OF_A_WORKER)) == []
