"""The console as a process: beside a worker while that works, and as a command of its own."""

from __future__ import annotations

import re
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dovetail.cli.console import run
from dovetail.platform.errors import ConfigError, StoreError
from tests import forked
from tests.app.small_project import MESSAGES, TOML, write_project
from tests.console.shown_run import contents

COMMAND = Path(__file__).parent.parent / "api" / "command.py"
TOKEN = "a-token-of-this-console"


@contextmanager
def said_by(folder: Path, pattern: str, *command: str) -> Iterator[tuple[forked.Forked, str]]:
    """``dovetail COMMAND`` in ``folder``, and what it says of its address; killed at the end."""
    log, pause = folder.parent / f"{uuid.uuid4().hex}.log", threading.Event()
    with log.open("wb") as file, forked.start([COMMAND, *command], cwd=folder, stdout=file, stderr=file) as process:
        try:
            while (found := re.search(pattern, log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                pause.wait(0.05)
            yield process, found[1]
        finally:
            process.kill()


def test_a_worker_shows_its_project_and_the_command_shows_it_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (tmp_path / "tokens").write_text(f"{TOKEN} read\n")
    console = f'\n[console]\nport = 0\ntokens_file = "{tmp_path}/tokens"\n'
    write_project(folder, TOML + console, {"behaviour": MESSAGES["behaviour"], "requests": MESSAGES["requests"][:1]})
    with said_by(folder, r"console: url=(\S+)", "worker") as (process, url):
        headers, pause = {"Authorization": f"Bearer {TOKEN}"}, threading.Event()
        with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
            while (answer := client.get("/sample?id=first")).status_code == 404:  # it has yet to be answered
                pause.wait(0.05)
            assert answer.status_code == 200
            assert "Request first" in answer.text
            while "labels up to event time" not in client.get("/flow").text:  # its own stage says what it waits for
                pause.wait(0.05)
            assert client.get("/definitions", headers={"Authorization": "Bearer no"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    before = contents(folder)
    with said_by(folder, r"console of small: (\S+)", "console", "--port", "0") as (process, url):
        with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
            assert client.get("/sample?id=first").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert contents(folder) == before


def test_a_project_that_no_worker_has_run_has_nothing_to_look_at(tmp_path: Path) -> None:
    write_project(tmp_path / "project", TOML, {})
    with pytest.raises(StoreError, match=r"cannot be opened.* reads what a worker has stored: start one first"):
        run(tmp_path / "project", None, {"port": 0})
    with pytest.raises(ConfigError, match="is no folder of a demo's run"):
        run(Path(), tmp_path / "project", {"port": 0})
    with pytest.raises(ConfigError, match="--project and --run name two things to look at"):
        run(tmp_path, tmp_path / "project", {"port": 0})
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        run(tmp_path / "project", None, {"port": 0, "host": "0.0.0.0"})
