"""Messages that end the process that reads them, without an exception: real workers that die, and start again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.reports.archived import archived_letters
from dovetail.app.worker import assemble
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import load_config
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests import forked
from tests.app.small_project import NOON_MS, at, project_in, write_project
from tests.places import ROOT

pytestmark = pytest.mark.slow

LIFE = """
import asyncio, sys
from pathlib import Path
from tests.app.small_project import live
if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), None, ("features", "snapshots", "labels", "samples", "archive")))
"""
#: Put into every Python process of a worker, its children's too: decoding does what a broken library would.
DEADLY = """
import ctypes, os, signal
from pathlib import Path
from dovetail.platform.rows import wire

decode = wire.decode

def deadly(poll, schema):
    for value in poll.values:
        if value and b"segfault" in value:
            ctypes.string_at(0)
        if value and b"abort" in value:
            os.abort()
        if value and b"glutton" in value:
            bytes(4 << 30)
        if value and b"reaped" in value and not Path(os.environ["REAPED"]).exists():
            Path(os.environ["REAPED"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return decode(poll, schema)

wire.decode = deadly
"""


def project_with(folder: Path, *users: str) -> None:
    write_project(folder)
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        log.create_topic("behaviour", load_config(folder).topics()["behaviour"])
        events = [json.dumps({"user_id": user, "event_time": at(2)}).encode() for user in users]
        log.append([Outgoing("behaviour", event, partition=0, timestamp_ms=NOON_MS) for event in events])


def life(folder: Path) -> int:
    """The exit code of one life of a worker, to the end of everything."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(DEADLY)  # of its children
    (hook / "life.py").write_text(DEADLY + LIFE)
    environment = {**os.environ, "PYTHONPATH": str(hook), "REAPED": str(folder / "reaped")}
    return forked.start([hook / "life.py", folder], cwd=ROOT, env=environment).wait(240)


def judge(folder: Path, users: list[str], letters: dict[int, str]) -> None:
    """The accounts balance, and what the archive and the dead letters hold."""
    worker = assemble(project_in(folder), roles=("features", "snapshots", "labels", "samples", "archive"))
    try:
        audit = audit_worker(worker)
        assert audit.balanced, audit.unbalanced
        stores = worker.stores
        rows = read_dataset(stores.registry, stores.offline, "behaviour")
        assert rows.column("user_id").to_pylist() == users
        found = [row for row in archived_letters(stores).to_pylist() if row["topic"] == "behaviour"]
        assert {row["offset"]: row["reason"] for row in found} == letters
        assert {row["stage"] for row in found} <= {"features.behaviour"}
        assert not consistency_of(worker.project, stores).mismatched
    finally:
        worker.stores.close()
    assert not list((folder / "state" / "trial").iterdir())


def test_what_ends_a_process_is_a_dead_letter_after_its_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    # The first event and the announcement after it are offsets 0 and 1.
    project_with(folder, "v", "segfault", "w", "abort", "glutton", "x")
    assert life(folder) in (-signal.SIGSEGV, -signal.SIGABRT)
    assert life(folder) == 0
    ended = "ended the process that read it: "
    judge(folder, ["u", "v", "w", "x"], {3: f"{ended}SIGSEGV", 5: f"{ended}SIGABRT", 6: f"{ended}MemoryError: "})


def test_a_worker_killed_at_good_messages_loses_none(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    project_with(folder, "v", "reaped", "w")
    assert life(folder) == -signal.SIGKILL
    assert list((folder / "state" / "trial").iterdir())
    assert life(folder) == 0
    judge(folder, ["u", "v", "reaped", "w"], {})
