"""A forked process is a process: pid, descriptors, environment, folder, signals and ends are its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests import forked

SCRIPT = """
import atexit, os, sys, threading
print(os.getpid(), threading.active_count(), os.getcwd(), os.environ.get("HOW"), *sys.argv[1:], flush=True)
atexit.register(print, "at exit")
how = os.environ.get("HOW")
if how == "raise":
    raise ValueError("cannot go on")
if how == "wait":
    threading.Event().wait()
if how == "read":
    print(sys.stdin.read().upper())
sys.exit(7)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def started(script: Path, how: str, *arguments: str) -> forked.Forked:
    pipe = subprocess.PIPE
    return forked.start([script, *arguments], cwd=script.parent, env={"HOW": how}, stdin=pipe, stdout=pipe, stderr=pipe)


def test_it_has_all_of_its_own_and_ends_with_its_code(script: Path) -> None:
    with started(script, "read", "one", "two") as process:
        out, err = process.communicate("said", timeout=60)
        assert (process.returncode, err) == (7, "")
    assert out.splitlines() == [f"{process.pid} 1 {script.parent} read one two", "SAID", "at exit"]
    assert process.pid != os.getpid()


def test_an_error_is_said_and_its_code_is_1(script: Path) -> None:
    with started(script, "raise") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip().endswith("ValueError: cannot go on")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signals_end_one_and_not_the_other(script: Path, number: signal.Signals) -> None:
    with started(script, "wait") as one, started(script, "wait") as other:
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0)
        waiting = threading.Thread(target=one.wait)
        waiting.start()
        one.send_signal(number)
        assert one.wait(60) == -number
        waiting.join()
        assert other.poll() is None
        assert Path(f"/proc/{other.pid}").exists()
        other.kill()
        assert other.wait(60) == -signal.SIGKILL
        one.send_signal(number)  # has ended: nothing is sent


def test_what_it_writes_goes_where_it_is_told(script: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = forked.start([script], env={"HOW": "raise"}, stdout=log, stderr=subprocess.STDOUT)
    assert process.wait(60) == 1
    said = (tmp_path / "log").read_text().splitlines()
    assert said[0].startswith(str(process.pid))
    assert "ValueError: cannot go on" in said
