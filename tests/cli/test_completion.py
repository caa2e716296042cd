"""Bash completes the commands and options of ``dovetail`` by the script that ``--show-completion`` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
eval "$(dovetail --show-completion bash)"
complete -p dovetail
COMP_WORDS=(dovetail con) COMP_CWORD=1
_dovetail_completion dovetail
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_a_command() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    registered, completed = done.stdout.splitlines()
    assert registered == "complete -o default -F _dovetail_completion dovetail"
    assert completed.split() == ["console", "consistency"]
