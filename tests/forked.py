"""Python processes for tests, forked from one that has imported Dovetail: seconds of imports are paid once a session.

``start([SCRIPT, ARGUMENT...], ...)`` is ``subprocess.Popen([sys.executable, SCRIPT, ARGUMENT...], ...)`` with these
differences: modules of Dovetail are imported already, and the seed of hashes is that of the session. The process has a
pid, descriptors, environment and folder of its own, may be killed and paused, and ends as Python ends: by its own exit
code, with its atexit functions, by a signal. Tests of how a command starts use the command instead.

The parent runs nothing but imports, and so it may be forked: there is no second Python thread, no open connection, no
event loop. Of the libraries, OpenBLAS and jemalloc start threads when they are imported; both prepare for a fork.
Between the parent and each process stands a *guardian*, forked too, which waits for it and says how it ended; it lets
go of the pid only when this side has been told, so that a signal never meets another process of the same number.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO

__all__ = ["Forked", "run", "start"]

#: What processes of tests need; each imports the rest.
MODULES = (
    "dovetail.cli.demo",
    "dovetail.cli.stored.backfill",
    "dovetail.cli.worker",
    "dovetail.platform.transports.embedded.driver",
    "dovetail.platform.transports.kafka.driver",
)
_NUMBER = struct.Struct("<i")
Files = tuple[IO[bytes] | int | None, IO[bytes] | int | None, IO[bytes] | int | None]


# --- the side of the tests ---------------------------------------------------------------------------------------


class Forked:
    """A process; what it has of ``subprocess.Popen`` is the same. Pipes are text. Its methods may run in any thread."""

    def __init__(self, command: Sequence[str], guardian: socket.socket, pipes: Sequence[IO[str] | None]) -> None:
        self.args = command
        self.stdin, self.stdout, self.stderr = pipes
        self.returncode: int | None = None
        self._guardian, self._lock = guardian.detach(), threading.Lock()
        weakref.finalize(self, os.close, self._guardian)  # not sooner: another thread may be waiting for it
        self.pid = self._said()

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # the test has failed: it does not wait for an end that may not come
            self.kill()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self.wait()

    def read_until(self, line: str) -> None:
        """Read what it says until it says ``line``. Raises AssertionError, with its errors, where it ends before."""
        assert self.stdout is not None
        if not any(said.strip() == line for said in self.stdout):
            raise AssertionError(f"{self.args} ended without saying {line!r}: {self.communicate()[1]}")

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises TimeoutExpired."""
        if self.returncode is None and not select.select([self._guardian], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        with self._lock:
            if self.returncode is None:
                self.returncode = self._said()
                os.write(self._guardian, b".")
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, given: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Give it input, wait for its end, and return the rest of what it wrote to the two pipes, empty without one."""
        if self.stdin is not None:
            with suppress(BrokenPipeError):
                self.stdin.write(given or "")
                self.stdin.close()
        read = {"out": "", "err": ""}

        def drain(name: str, pipe: IO[str]) -> None:
            read[name] = pipe.read()

        readers = [
            threading.Thread(target=drain, args=(name, pipe), daemon=True)
            for name, pipe in (("out", self.stdout), ("err", self.stderr))
            if pipe is not None
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return read["out"], read["err"]

    def _said(self) -> int:
        said = os.read(self._guardian, _NUMBER.size)
        if len(said) < _NUMBER.size:
            raise RuntimeError(f"{self.args}: its guardian has ended; it was killed, or the parent failed to start")
        number: int = _NUMBER.unpack(said)[0]
        return number


def start(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Forked:
    """A process that runs the script ``command[0]``; for the other arguments see ``subprocess.Popen``."""
    words = [str(word) for word in command]
    pipes: list[IO[str] | None] = []
    theirs: list[int] = []
    own: list[int] = []
    for number, given in enumerate((stdin, stdout, stderr)):
        pipe = None
        if given == subprocess.PIPE:
            reading, writing = os.pipe()
            mine, other = (writing, reading) if number == 0 else (reading, writing)
            pipe = os.fdopen(mine, "w" if number == 0 else "r")
            own.append(other)
        elif given == subprocess.DEVNULL:
            other = os.open(os.devnull, os.O_RDWR)
            own.append(other)
        elif given == subprocess.STDOUT:
            other = theirs[1]
        else:
            other = number if given is None else given if isinstance(given, int) else given.fileno()
        pipes.append(pipe)
        theirs.append(other)
    here, guardian = socket.socketpair()
    job = {"command": words, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
    with guardian:
        socket.send_fds(_parent(), [json.dumps(job).encode()], [*theirs, guardian.fileno()])
    for descriptor in own:
        os.close(descriptor)
    return Forked(words, here, pipes)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Start it, and wait for its end: ``subprocess.run`` with what it wrote captured as text. Raises TimeoutExpired."""
    with start(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, errors = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.wait(), out, errors)


@cache
def _parent() -> socket.socket:
    """What the parent listens to; it ends when this end is closed, with the session at the latest."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        parent = subprocess.Popen(
            [sys.executable, __file__, str(there.fileno()), *MODULES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
        )

    def end() -> None:
        here.close()
        parent.wait()

    atexit.register(end)
    return here


# --- the parent, its guardians and their processes -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]


def _serve(channel: socket.socket) -> _Job | None:
    """Fork a guardian for each request; None when there will be no more. Returns in each process with its job, too."""
    while True:
        said, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        _take_the_dead()
        if not said:
            return None
        if os.fork() == 0:
            channel.close()
            return _guarded(_Job(**json.loads(said)), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _guarded(job: _Job, descriptors: Sequence[int]) -> _Job:
    """Fork the process, in which this returns; the guardian says its pid and how it ended, and ends."""
    *files, tell = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
        for descriptor in files:
            os.close(descriptor)
        return job
    for descriptor in files:
        os.close(descriptor)
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(tell, _NUMBER.pack(pid))
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        signalled = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        os.write(tell, _NUMBER.pack(-ended.si_status if signalled else ended.si_status))
        os.read(tell, 1)
    os.waitpid(pid, 0)
    os._exit(0)


def _take_the_dead() -> None:
    """Take the exit codes of guardians that have ended, which also adds up the processor time of all processes."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(job: _Job) -> None:
    """Be the process that the job asks for."""
    os.chdir(job.cwd)
    os.environ.clear()
    os.environ.update(job.env)
    for stream in (sys.stdout, sys.stderr):
        assert hasattr(stream, "reconfigure")
        stream.reconfigure(write_through=bool(job.env.get("PYTHONUNBUFFERED")))
    sys.argv = list(job.command)
    sys.path[0] = str(Path(job.command[0]).resolve().parent)
    runpy.run_path(job.command[0], run_name="__main__")


def _main(descriptor: str, *modules: str) -> None:
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # the checkout: for what scripts import of the tests
    for module in modules:
        importlib.import_module(module)
    from dovetail.features.kernels.integers import unsigned_less

    unsigned_less(1, 2)  # numba sets itself up at its first call
    assert threading.active_count() == 1, "a parent with threads cannot be forked"
    # What has been imported is nobody's garbage: a process that looked for some in it, as each does when it ends, would
    # write to every page of it, and so copy it.
    gc.collect()
    gc.freeze()
    # From Python 3.12 on each fork says that there are threads: those of libraries, which prepare for it.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with socket.socket(fileno=int(descriptor)) as channel:
        job = _serve(channel)
    if job is not None:
        _become(job)


if __name__ == "__main__":
    _main(*sys.argv[1:])
