"""The process around the stages: how it is told to stop, how long it may take, what it ends with."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dovetail.platform.process.lifecycle import (
    FAILED,
    LATE,
    LoopGuard,
    StopSignals,
)
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests import forked


class Timers:
    """Stands for threading.Timer; goes off when told."""

    def __init__(self) -> None:
        self.made: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, function: Callable[[], None]) -> Any:
        self.made.append((seconds, function))
        return threading.Thread(daemon=True)


def signals(timers: Timers, told: list[str], codes: list[int]) -> StopSignals:
    return StopSignals(30, lambda: told.append("stop"), exit_now=codes.append, timer=timers)


def test_the_first_signal_asks_and_the_second_ends_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    timers, told, codes = Timers(), list[str](), list[int]()
    stop = signals(timers, told, codes)
    stop.receive(signal.SIGTERM)
    assert (told, codes, [seconds for seconds, _ in timers.made]) == (["stop"], [], [30])
    stop.receive(signal.SIGINT)
    assert (told, codes) == (["stop"], [130])
    assert "told a second time: ends at once" in capfd.readouterr().err


@pytest.mark.parametrize("failed", [False, True])
def test_a_stop_that_takes_too_long_ends_with_its_code(failed: bool, capfd: pytest.CaptureFixture[str]) -> None:
    timers, codes = Timers(), list[int]()
    stop = signals(timers, [], codes)
    if failed:
        stop.arm(FAILED, "failed: ValueError: no")
    stop.receive(signal.SIGTERM)
    [(_, goes_off)] = timers.made
    goes_off()
    assert codes == [FAILED if failed else LATE]
    said = "dovetail worker: failed: ValueError: no; and not" if failed else "dovetail worker: not"
    assert f"{said} stopped within 30 s ([worker] stop_timeout)" in capfd.readouterr().err


def test_a_loop_hangs_when_it_has_not_beaten_for_so_many_looks() -> None:
    guard = LoopGuard(3)
    assert [guard.hangs(beats) for beats in (0, 0, 0, 1, 1, 1, 1, 1)] == [False] * 6 + [True] * 2


# Sums what it reads, a work per message, into a store with its position; the environment says how it misbehaves.
WORKER = """
import asyncio, gc, os, sqlite3, sys, threading, time
from dovetail.platform.errors import StaleCommit
from dovetail.platform.process.monitor import Pulse
from dovetail.platform.process.lifecycle import leave, run_process
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Stage, Work

HOW = os.environ.get("HOW", "")
STORE = sqlite3.connect("store.db", check_same_thread=False, isolation_level=None)
STORE.execute("CREATE TABLE IF NOT EXISTS state (partition INTEGER PRIMARY KEY, position INTEGER, total INTEGER)")

class Summing(Stage):
    name, topics = "summing", ("numbers",)
    owed = None

    async def start(self):
        if HOW == "warm":
            say("warming")
            await asyncio.to_thread(threading.Event().wait)

    def resume(self, topic):
        return dict(STORE.execute("SELECT partition, position FROM state"))

    async def handle(self, poll):
        for offset, value in zip(poll.offsets.tolist(), poll.values):
            say(f"at {offset}")
            if HOW == "block":
                threading.Event().wait()
            if HOW == "compile":
                await asyncio.to_thread(threading.Event().wait)
            if HOW == "hang":
                await asyncio.Event().wait()
            yield Work([], lambda: self.commit(poll, offset, int(value)), offset + 1)
        say("end of poll")

    def commit(self, poll, offset, more):
        if "commit" in HOW:
            say("committing")
            threading.Event().wait()
        query = "SELECT position, total FROM state WHERE partition = ?"
        position, total = STORE.execute(query, (poll.partition,)).fetchone() or (0, 0)
        if position != offset:
            raise StaleCommit("numbers", poll.partition, expected=offset, found=position)
        STORE.execute("REPLACE INTO state VALUES (?, ?, ?)", (poll.partition, offset + 1, total + more))

    def hurry(self):
        say("hurry")

    async def settle(self, topic, partition, *, stopping=False):
        if stopping:
            yield Work(commit=lambda: say("settled"))

def say(line):
    os.write(1, b"%s\\n" % line.encode())

async def watch():
    say(f"turns of {sys.getswitchinterval():.4f} s, {gc.get_freeze_count() > 1000} that much is spared")
    if HOW == "watch":
        raise ValueError("nothing moves")
    await asyncio.Event().wait()

async def started():
    say("started")

app = create_app("sums", "embedded://log.db", topics={"numbers": 2})
run_process(
    Runtime(app, [Summing()], grace_s=0.2 if HOW in ("hang", "compile") else 10),
    watch=watch, pulse=Pulse(), on_started=started,
    stop_timeout_s=1 if "stuck" in HOW else 20, loop_timeout_s=1 if HOW == "block" else 0,
)
leave()
"""
COUNT = 1000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "worker.py").write_text(WORKER)
    with EmbeddedLog.open(tmp_path / "log.db") as log:
        log.create_topic("numbers", 2)
        log.append([Outgoing("numbers", b"%d" % number, partition=number % 2) for number in range(COUNT)])
    return tmp_path


def start(project: Path, how: str = "") -> forked.Forked:
    return forked.start(
        ["worker.py"],
        cwd=project,
        env={**os.environ, "HOW": how},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def state(project: Path) -> tuple[int, int]:
    connection = sqlite3.connect(project / "store.db")
    try:
        done, total = connection.execute("SELECT sum(position), sum(total) FROM state").fetchone()
    finally:
        connection.close()
    return done or 0, total or 0


@pytest.mark.slow
def test_told_to_stop_in_mid_load_it_stops_in_good_order_and_the_next_goes_on(project: Path) -> None:
    positions = [0]
    for number in (signal.SIGTERM, signal.SIGINT):
        with start(project) as worker:
            worker.read_until(f"at {positions[-1] + 50}")
            worker.send_signal(number)
            out, err = worker.communicate(timeout=60)
        assert (worker.returncode, err) == (0, "")
        assert "settled" in out
        positions.append(state(project)[0])
        assert positions[-2] < positions[-1]
        with EmbeddedLog.open(project / "log.db") as log:
            committed = log.committed("sums")
        assert sum(committed.values()) == positions[-1]
    with start(project) as worker:
        while state(project)[0] < COUNT:
            worker.read_until("end of poll")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert state(project) == (COUNT, sum(range(COUNT)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("stuck commit", LATE, "not stopped within 1 s ([worker] stop_timeout): ends at once"),
        ("watch", FAILED, "ValueError: nothing moves"),
        ("block", FAILED, "the event loop has had no turn for 1 s ([worker] watchdog_timeout): ends at once"),
    ],
)
def test_one_that_cannot_stop_or_go_on_ends_with_a_code_and_says_why(
    project: Path, how: str, code: int, says: str
) -> None:
    with start(project, how) as worker:
        if how == "stuck commit":
            worker.read_until("at 0")
            worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=60)
    assert worker.returncode == code
    assert says in err
    # Threads take short turns, and what the start has made is left out of collections of garbage.
    assert how != "watch" or "turns of 0.0005 s, True that much is spared" in out
    assert state(project)[0] in ((0,) if how != "watch" else range(COUNT + 1))


@pytest.mark.slow
def test_a_thread_that_computes_for_ever_does_not_keep_the_process(project: Path) -> None:
    with start(project, "compile") as worker:
        worker.read_until("at 0")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=60)
    assert (worker.returncode, err) == (0, "")
    assert "hurry" in out


@pytest.mark.slow
def test_a_signal_while_kernels_are_compiled_ends_the_worker_before_it_has_joined(project: Path) -> None:
    with start(project, "warm") as worker:
        worker.read_until("warming")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=60)
    assert (worker.returncode, err) == (0, "")
    assert "at 0" not in out


@pytest.mark.slow
def test_what_hangs_outside_a_commit_is_cancelled_and_a_second_signal_ends_what_hangs_inside(project: Path) -> None:
    with start(project, "hang") as worker:
        worker.read_until("at 0")
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=60)
    assert (worker.returncode, err) == (0, "")
    with start(project, "endless commit") as worker:
        worker.read_until("committing")
        worker.send_signal(signal.SIGTERM)
        worker.read_until("hurry")
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=60)
    assert worker.returncode == 128 + signal.SIGINT
