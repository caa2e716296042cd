"""Child processes that compute messages within limits, and the files that say what a process died at."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dovetail.platform.process.probing import ChildProber, Limits
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.trial import Mark, Trial, TrialFile
from dovetail.platform.stage import Poll
from tests.platform.polls import poll_of
from tests.platform.runtime.copying import Copier

#: What a child runs: a stage whose messages say what becomes of it.
CHILD = [sys.executable, "-c", """
import ctypes, os, threading
from dovetail.platform.errors import EngineFailed
from dovetail.platform.process.probing import serve

class Stage:
    def resume(self, topic):
        print("libraries print", flush=True)

    def probe(self, poll):
        for value in poll.values:
            if value == b"segfault":
                ctypes.string_at(0)
            if value == b"exit":
                os._exit(7)
            if value == b"hang":
                threading.Event().wait()
            if value == b"glutton":
                bytes(1 << 30)
            if value == b"engine":
                raise EngineFailed("invalidated")
            if value == b"raise":
                raise ValueError("seen by whoever computes it next")
            if value == b"together" and len(poll) > 1:
                os.abort()

def make(project, name):
    assert (project, name) == ({"any": "thing"}, "stage")
    return Stage()

serve(make)
"""]  # fmt: skip
PROJECT = {"any": "thing"}
ENDED = "ended the process that read it: "


def probed(values: list[bytes], limits: Limits | None = None) -> Mapping[int, str]:
    beats: list[None] = []
    found = ChildProber(CHILD, PROJECT, limits)("stage", poll_of(values, first=10), lambda: beats.append(None))
    assert beats
    return found


def test_good_messages_and_those_that_raise_are_let_go() -> None:
    assert probed([b"good", b"raise", b"good"]) == {}


def test_each_message_that_ends_a_process_is_found_behind_the_last() -> None:
    found = probed([b"good", b"segfault", b"raise", b"exit", b"engine", b"good"])
    assert found == {
        11: f"{ENDED}SIGSEGV",
        13: f"{ENDED}exit code 7",
        14: f"{ENDED}EngineFailed: invalidated",
    }


def test_memory_and_time_are_limited() -> None:
    limits = Limits(poll_s=1.0, message_s=1.0, memory_bytes=512 << 20)
    assert probed([b"glutton", b"good", b"hang"], limits) == {
        10: f"{ENDED}MemoryError: ",
        12: f"{ENDED}it took longer than 1 s",
    }


def test_messages_that_end_a_process_together_only_are_let_go() -> None:
    assert probed([b"together", b"good"]) == {}


def test_a_child_that_does_not_start_says_nothing_against_any_message() -> None:
    prober = ChildProber([sys.executable, "-c", "raise SystemExit(1)"], PROJECT)
    assert prober("stage", poll_of([b"good"]), lambda: None) == {}
    assert ChildProber(["/no/such/program"], PROJECT)("stage", poll_of([b"good"]), lambda: None) == {}


def test_a_stop_ends_the_child_and_refuses_nothing() -> None:
    prober = ChildProber(CHILD, PROJECT)
    assert prober("stage", poll_of([b"hang"]), prober.stop) == {}
    assert prober("stage", poll_of([b"segfault"]), lambda: None) == {}


DYING = """
import os, sys
from pathlib import Path
from dovetail.platform.runtime.trial import Mark, TrialFile

file = TrialFile(Path(sys.argv[1]))
file.write(Mark("first", "in", 0, 5, 7))
file.write(Mark("second", "in", 1, 0, 0))
file.write(Mark("second", "in", 1, 10**12, 10**12))
file.write(Mark("third", "in", 2, 0, 9))
file.write(Mark("x" * 600, "in", 3, 0, 9))
file.clear("third")
os.kill(os.getpid(), 9)
"""


def died_in(folder: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DYING, str(folder)], check=False).returncode == -9


def test_what_a_dead_process_was_computing_is_found_once_and_a_living_ones_is_let_be(tmp_path: Path) -> None:
    died_in(tmp_path)
    mine = TrialFile(tmp_path)
    mine.write(Mark("first", "in", 0, 0, 4))
    assert TrialFile.left(tmp_path) == [Mark("first", "in", 0, 5, 7), Mark("second", "in", 1, 10**12, 10**12)]
    assert TrialFile.left(tmp_path) == []
    mine.close(keep=True)
    assert TrialFile.left(tmp_path) == [Mark("first", "in", 0, 0, 4)]
    assert not list(tmp_path.iterdir())


class Asked:
    """A prober that is told what to say."""

    def __init__(self, says: Mapping[int, str]) -> None:
        self.says, self.asked, self.stopped = says, list[tuple[str, int, int]](), False

    def __call__(self, stage: str, poll: Poll, beat: Callable[[], None]) -> Mapping[int, str]:
        self.asked.append((stage, poll.first, poll.last))
        return self.says

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("here", [True, False], ids=["its stage is here", "its stage is elsewhere"])
def test_all_readers_of_what_a_process_died_at_wait_for_one_look(tmp_path: Path, here: bool) -> None:
    died_in(tmp_path)
    kept: dict[int, str] = {}
    prober = Asked({6: "bad"})
    readers = [Copier("archive"), Copier("first")] if here else [Copier("archive"), Copier("another")]
    for reader in readers:
        reader.refusals = Refusals(lambda _topic, _partition: kept, lambda _topic, _partition, more: kept.update(more))

    async def main() -> None:
        trial = Trial(tmp_path, prober)
        trial.open({reader.name for reader in readers})
        polls = [poll_of([b""] * 20, topic="in", partition=partition) for partition in (0, 7)]
        polls.append(poll_of([b""] * 20, topic="in", first=8))

        async def read(reader: Copier) -> None:
            for poll in polls:
                await trial.begin(reader, poll, lambda: None)

        await asyncio.gather(*map(read, readers))
        trial.end(readers[0], polls[-1])
        trial.close(keep=True)

    asyncio.run(main())
    assert prober.asked == [("first" if here else "archive", 5, 7)]
    assert prober.stopped
    assert kept == {6: "bad"}
    assert TrialFile.left(tmp_path) == [Mark(readers[1].name, "in", 0, 8, 27)]
