"""The worker as a process: how it ends, and what a restart finds, on the embedded log."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests import forked

# Sums the numbers it reads into an SQLite file, together with its position; says what it is given. The environment
# says where it fails: by an exception, or by the process dying on the spot.
WORKER = """
import os, sqlite3
from dovetail.platform.errors import StaleCommit
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Stage, Work

STORE = sqlite3.connect("store.db", check_same_thread=False, isolation_level=None)
STORE.execute("CREATE TABLE IF NOT EXISTS state (partition INTEGER PRIMARY KEY, position INTEGER, total INTEGER)")

class Summing(Stage):
    name, topics = "summing", ("numbers",)

    def resume(self, topic):
        return dict(STORE.execute("SELECT partition, position FROM state"))

    async def handle(self, poll):
        say(f"given {poll.first} {poll.last}")
        if os.environ.get("FAIL") == "raise":
            raise ValueError("cannot sum")
        numbers = [int(value) for value in poll.values]
        outgoing = [Outgoing("copies", value, partition=0) for value in poll.values]
        yield Work(outgoing, lambda: self.commit(poll, sum(numbers)), poll.last + 1)
        say(f"done {poll.last + 1}")

    def commit(self, poll, more):
        position, total = self.stored(poll)
        if position != poll.first:
            raise StaleCommit("numbers", poll.partition, expected=poll.first, found=position)
        STORE.execute("REPLACE INTO state VALUES (?, ?, ?)", (poll.partition, poll.last + 1, total + more))

    def stored(self, poll):
        query = "SELECT position, total FROM state WHERE partition = ?"
        return STORE.execute(query, (poll.partition,)).fetchone() or (0, 0)

def say(line):
    os.write(1, b"\\n%s\\n" % line.encode())  # Faust sends print to its log, and writes unfinished lines

def die(stage, step):
    if os.environ.get("FAIL") == step:
        os._exit(9)

app = create_app("sums", "embedded://log.db", topics={"numbers": 1, "copies": 1})
Runtime(app, [Summing()], on_step=die)
if __name__ == "__main__":
    app.main()
"""

BY_SCRIPT = (sys.executable, "worker.py", "worker")
BY_FAUST = (sys.executable, "-m", "faust", "-A", "worker", "worker")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "worker.py").write_text(WORKER)
    feed(tmp_path, range(1, 11))
    return tmp_path


def feed(project: Path, numbers: Sequence[int]) -> None:
    with EmbeddedLog.open(project / "log.db") as log:
        log.create_topic("numbers", 1)
        log.append([Outgoing("numbers", b"%d" % number) for number in numbers])


def start_again(project: Path, fail: str = "") -> forked.Forked:
    """The worker by its script, without what it takes to import all it needs."""
    return forked.start(
        BY_SCRIPT[1:],
        cwd=project,
        env={**os.environ, "FAIL": fail},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start(project: Path, command: Sequence[str], fail: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=project,
        env={**os.environ, "FAIL": fail, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_until(worker: subprocess.Popen[str] | forked.Forked, last: str) -> list[str]:
    """What the worker says up to the line ``last``, which it must say."""
    assert worker.stdout is not None
    lines: list[str] = []
    for line in worker.stdout:
        lines.append(line.strip())
        if lines[-1] == last:
            return lines
    raise AssertionError(f"the worker ended without saying {last!r}: {lines}")


def state(project: Path) -> list[tuple[int, int, int]]:
    connection = sqlite3.connect(project / "store.db")
    try:
        return connection.execute("SELECT * FROM state").fetchall()
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", [BY_SCRIPT, BY_FAUST], ids=["app.main()", "faust -A"])
def test_a_failing_worker_exits_and_the_next_is_given_the_same_poll(project: Path, command: Sequence[str]) -> None:
    with start(project, command, "raise") as failing:
        out, err = failing.communicate(timeout=60)
    assert failing.returncode not in (0, None)
    assert "given 0 9" in out
    assert "cannot sum" in err
    assert state(project) == []
    with EmbeddedLog.open(project / "log.db") as log:
        assert log.committed("sums") == {}
    with start(project, command) as healed:
        lines = lines_until(healed, "done 10")
        healed.send_signal(signal.SIGTERM)
        healed.communicate(timeout=60)
    assert "given 0 9" in lines
    assert healed.returncode == 0
    assert state(project) == [(0, 10, 55)]
    with EmbeddedLog.open(project / "log.db") as log:
        assert log.committed("sums") == {("numbers", 0): 10}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["computed", "published", "committed", "acknowledged"])
def test_a_worker_that_dies_anywhere_sums_each_number_once(project: Path, step: str) -> None:
    with start_again(project, step) as dying:
        dying.communicate(timeout=60)
    assert dying.returncode == 9
    feed(project, range(11, 21))
    with start_again(project) as healed:
        lines_until(healed, "done 20")
        healed.send_signal(signal.SIGTERM)
        healed.communicate(timeout=60)
    assert healed.returncode == 0
    assert state(project) == [(0, 20, 210)]
    with EmbeddedLog.open(project / "log.db") as log:
        poll = log.read("copies", 0, 0)
        assert poll is not None
        # Published at least once, in order of the source: a repetition starts at the stored position.
        copies = [int(value or b"") for value in poll.values]
        assert copies == [*range(1, 11), *range(1, 21)] if step == "published" else copies == [*range(1, 21)]
