"""The command line of ``scripts/services``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.servers import command
from tests.places import ROOT

SCRIPT = ROOT / "scripts" / "services"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "mysql"], "there is no 'mysql'; choose from kafka, redis, postgresql"),
        (["up", "redis", "--port", "redis"], "--port redis: write NAME=PORT, with a NAME of kafka, redis, postgresql"),
        (["run", "redis"], "run: the command is missing; it comes after --"),
    ],
)
def test_a_misuse_is_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 1
    assert capsys.readouterr().err == f"services: {message}\n"


def test_installing_needs_root_and_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["up", "redis", "--install"]) == 1
    assert "--install needs root and apt-get; missing are redis-server" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert command.main(["up", "redis", "--dir", str(tmp_path)]) == 1
    assert "belongs to somebody else; choose another folder with --dir" in capsys.readouterr().err


@pytest.mark.services
def test_up_status_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dir", str(tmp_path / "instance")]
    assert command.main(["up", "redis", *where]) == 0
    assert capsys.readouterr().out.startswith("DOVETAIL_TEST_REDIS=redis://127.0.0.1:")
    assert command.main(["status", *where]) == 0
    assert capsys.readouterr().out == "kafka: absent\nredis: ready\npostgresql: absent\n"
    assert command.main(["down", *where]) == 0
    assert not (tmp_path / "instance").exists()


@pytest.mark.services
def test_run_gives_the_exit_code_and_cleans_up_also_when_it_is_ended(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = [sys.executable, "-c", "import os, sys; sys.exit('DOVETAIL_TEST_REDIS' in os.environ and 7)"]
    run = [sys.executable, str(SCRIPT), "run", "redis", "--"]
    assert subprocess.run([*run, *told], env=environment, check=False).returncode == 7
    assert list(tmp_path.iterdir()) == []
    waiting = [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()"]
    with subprocess.Popen([*run, *waiting], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"here\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
