"""Processes of one world, workers or those that serve its API, and the supervisor an operator would have."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import forked

__all__ = ["ApiProcess", "Fleet", "WorkerProcess", "until"]

_MORTAL = Path(__file__).parent / "mortal_worker.py"
_COMMAND = Path(__file__).parents[1] / "api" / "command.py"
#: Waiting is for a condition; this is when a condition that does not come is a failure.
PATIENCE_S = 150.0


def until(
    condition: Callable[[], bool],
    what: str,
    patience_s: float = PATIENCE_S,
    say: Callable[[], object] = lambda: "",
) -> None:
    """Wait for ``condition``. Raises TimeoutError saying ``what`` did not come, and what ``say`` says."""
    end, pause = time.monotonic() + patience_s, threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience_s:g} s; {say()}")
        pause.wait(0.2)


class WorkerProcess:
    """One worker. Its output is in ``log``."""

    kind = "worker"
    #: Where it says, in its output, that its health can be asked for.
    says_url = re.compile(r"health server: url=(http://[^/\s]+)")

    @staticmethod
    def command(project: Path, faults: Sequence[str]) -> list[str]:
        """What is run."""
        return [str(_MORTAL), str(project), *faults]

    def __init__(self, project: Path, log: Path, faults: Sequence[str] = ()) -> None:
        self.log = log
        self.faulty = bool(faults)
        with log.open("ab") as output:
            self._start = log.stat().st_size
            command = self.command(project, faults)
            # One thread is enough for a small world; the machine has other workers and three servers.
            env = {**os.environ, "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
            self.process = forked.start(command, stdout=output, stderr=subprocess.STDOUT, env=env)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """What it has said."""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    @property
    def url(self) -> str | None:
        """Where it answers; None before it has said so."""
        found = self.says_url.search(self.output)
        return None if found is None else found[1]

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        return bool(self._readyz().get("ready", False))

    def partitions(self) -> int:
        """How many partitions it has, by its own word."""
        return sum(len(numbers) for numbers in self._readyz().get("partitions", {}).values())

    def _readyz(self) -> dict[str, Any]:
        if self.url is None:
            return {}
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except OSError:
            return {}

    def send(self, number: signal.Signals) -> None:
        """A signal, if it is still there."""
        if self.alive:
            self.process.send_signal(number)


class ApiProcess(WorkerProcess):
    """One ``dovetail serve``."""

    kind = "api"
    says_url = re.compile(r"process: api: url=(http://[^/\s]+)")

    @staticmethod
    def command(project: Path, faults: Sequence[str]) -> list[str]:
        """What is run; ``faults`` are of workers, and there are none."""
        assert not faults
        return [str(_COMMAND), "serve", "--project", str(project)]


class Fleet:
    """Keeps ``size`` processes of a kind running until it is left; then none is left over.

    ``faults`` are for the first start of the first worker only, unless ``forever``.
    """

    def __init__(
        self,
        project: Path,
        size: int,
        *,
        faults: Sequence[str] = (),
        forever: bool = False,
        process: type[WorkerProcess] = WorkerProcess,
    ) -> None:
        self.project, self.size, self._process = project, size, process
        self._faults, self._forever = tuple(faults), forever
        self.workers: list[WorkerProcess] = []
        #: Exit codes of workers that ended without being told to, negative for a signal, in order.
        self.ended: list[int] = []
        self._started = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Fleet:
        with self._lock:
            for _ in range(self.size):
                self.workers.append(self._start())
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._supervisor.join()
        for worker in self.workers:
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGKILL)
            worker.process.wait()

    def _start(self) -> WorkerProcess:
        faults = self._faults if self._started == 0 or self._forever else ()
        self._started += 1
        return self._process(self.project, self.project / f"{self._process.kind}-{self._started}.log", faults)

    def _supervise(self) -> None:
        while not self._closing.wait(0.1):
            with self._lock:
                for place, worker in enumerate(self.workers):
                    if not worker.alive:
                        self.ended.append(worker.process.wait())
                        self.workers[place] = self._start()

    def ready(self) -> bool:
        """Whether all workers are."""
        with self._lock:
            return all(worker.ready() for worker in self.workers)

    def add(self) -> WorkerProcess:
        """One worker more."""
        with self._lock:
            self.workers.append(self._start())
            return self.workers[-1]

    def remove(self, place: int) -> WorkerProcess:
        """SIGTERM to one, which is not replaced; returns it when it has ended."""
        with self._lock:
            worker = self.workers.pop(place)
        worker.send(signal.SIGTERM)
        worker.process.wait(PATIENCE_S)
        return worker

    def lose(self, place: int) -> None:
        """SIGKILL to one, which is not replaced."""
        with self._lock:
            worker = self.workers.pop(place)
        worker.send(signal.SIGKILL)
        worker.process.wait(PATIENCE_S)

    def kill(self, place: int) -> None:
        """SIGKILL to one; the supervisor starts another. Not to one that is dead and about to be replaced."""
        with self._lock:
            self.workers[place].send(signal.SIGKILL)

    def stop(self) -> list[int]:
        """SIGTERM to all; returns their exit codes. The supervisor starts none again."""
        self._closing.set()
        self._supervisor.join()
        for worker in self.workers:
            worker.send(signal.SIGTERM)
        return [worker.process.wait(PATIENCE_S) for worker in self.workers]

    def heal(self) -> None:
        """Whoever has faults built in is killed; those started from now on have none."""
        with self._lock:
            self._faults = ()
            for worker in self.workers:
                if worker.faulty:
                    worker.send(signal.SIGKILL)

    def logs(self) -> str:
        """All that was said, for a message."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.project.glob(f"{self._process.kind}-*.log"))
        )
