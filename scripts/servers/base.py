"""What the three servers have in common: a folder, ports, one process, and the ways to start, stop and hurt it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from scripts.servers import processes
from scripts.servers.ports import nobody_listens, release

__all__ = ["PortTaken", "Server", "ServiceError", "run", "unprivileged_user"]

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
#: What a server writes whose port somebody has taken since it was looked at.
_PORT_TAKEN = "address already in use"

# Servers that are children of this process, whichever handle started them: a dead child keeps its number until its
# exit code is taken.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ServiceError(Exception):
    """A server cannot be started; the message says what is missing or where its log is."""


class PortTaken(ServiceError):
    """A server cannot be started because another one listens on one of its ports."""


class Server(ABC):
    """One server. Everything about it is in ``folder``, so another process may take it over with the same folder.

    It listens on 127.0.0.1, always on the same ports, and keeps its data in ``folder`` until :meth:`remove`. All
    methods return when what they do is done: :meth:`start` when the server answers, :meth:`kill` when it is dead.
    """

    name: ClassVar[str]
    #: The ports it has when it is started for this machine at large; named, the first is the one in :attr:`url`.
    fixed_ports: ClassVar[Mapping[str, int]]
    #: Debian packages that provide a program, by program.
    packages: ClassVar[Mapping[str, str]]
    #: What ends it in good order without waiting for its clients.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- what each one says about itself ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it, as ``dovetail.toml`` takes it."""

    @classmethod
    @abstractmethod
    def missing(cls) -> list[str]:
        """The programs it needs and this machine does not have."""

    @abstractmethod
    def format(self) -> None:
        """Make the data folder, once."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The server's command line, in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves clients now."""

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def ports(self) -> Mapping[str, int]:
        """Its ports by name."""
        found: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return found

    @property
    def port(self) -> int:
        """The port of :attr:`url`."""
        return next(iter(self.ports.values()))

    @property
    def log(self) -> Path:
        """What it writes to standard output and error."""
        return self.folder / "log"

    def create(self, ports: Mapping[str, int]) -> None:
        """Prepare its folder. Raises ServiceError when a program is missing or fails."""
        if self.missing():
            wanted = sorted({self.packages[program] for program in self.missing()})
            raise ServiceError(
                f"{self.name} needs {', '.join(self.missing())}, not found here; Debian has it as "
                f"`apt-get install {' '.join(wanted)}` (or run this with --install as root)"
            )
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)  # its server may run as another user
        (self.folder / "ports.json").write_text(json.dumps(dict(ports)))
        self.format()

    def start(self) -> None:
        """Start it on its data.

        Raises:
            PortTaken: another server listens on one of its ports.
            ServiceError: it does not come up; the message has the end of its log.
        """
        if self.pid is not None:
            return
        # Asked first: whoever listens there might answer in its place, before it has found out.
        for name, port in self.ports.items():
            if not nobody_listens(port):
                raise PortTaken(f"{self.name} cannot start: its port {port} ({name}) is in use by another process")
        with self.log.open("ab") as log:
            begun = log.tell()
            child = subprocess.Popen(
                [str(part) for part in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=self._user(),
                start_new_session=True,  # a Ctrl-C is for the one who asked for it
            )
        _children[child.pid] = child
        (self.folder / "pid").write_text(f"{child.pid} {processes.start_time(child.pid)}")
        ready = processes.wait_until(lambda: self.pid is None or self.answers(), READY_SECONDS)
        if self.pid is None or not ready:
            self.kill()
            told = self.log.read_bytes()[begun:].decode(errors="replace")
            tail = "\n".join(told.splitlines()[-20:])
            failure = PortTaken if _PORT_TAKEN in told.lower() else ServiceError
            raise failure(f"{self.name} on port {self.port} did not start; its log {self.log} ends:\n{tail}")

    @property
    def pid(self) -> int | None:
        """Its process while it runs, stopped or not."""
        try:
            number, started = (self.folder / "pid").read_text().split()
        except FileNotFoundError:
            return None
        pid = int(number)
        if pid in _children and _children[pid].poll() is not None:
            del _children[pid]
        return pid if processes.alive(pid, started) else None

    def kill(self) -> None:
        """SIGKILL, to it and its children: what it has not written by now is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In good order, or by force when that takes longer than twenty seconds."""
        self._end(self.stop_signal)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody, until :meth:`resume`."""
        if (pid := self.pid) is not None:
            processes.send(processes.family(pid), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, to the server and its children."""
        if (pid := self.pid) is not None:
            processes.send(processes.family(pid), signal.SIGCONT)

    def remove(self) -> None:
        """Kill it, delete its folder and give its ports up."""
        self.kill()
        ports = self.folder / "ports.json"
        if ports.exists():
            release(json.loads(ports.read_text()).values())
        shutil.rmtree(self.folder)

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            members = processes.family(pid)
            births = {member: processes.start_time(member) for member in members}
            if how is signal.SIGKILL:
                processes.send(members, how)
            else:
                processes.send([pid], how)
                processes.send(members, signal.SIGCONT)  # a stopped process would not notice
            gone = processes.wait_until(lambda: self.pid is None and not _any_alive(births), STOP_SECONDS)
            if not gone:
                processes.send([m for m, birth in births.items() if processes.start_time(m) == birth], signal.SIGKILL)
                processes.wait_until(lambda: self.pid is None, STOP_SECONDS)
            # Of a process whose first thread has ended, others may still be ending, and have its sockets open.
            processes.wait_until(lambda: all(map(nobody_listens, self.ports.values())), STOP_SECONDS)
        (self.folder / "pid").unlink(missing_ok=True)

    def _user(self) -> str | None:
        """The user to run it as; None for ours."""
        return None


def _any_alive(births: Mapping[int, str | None]) -> bool:
    return any(birth is not None and processes.alive(pid, birth) for pid, birth in births.items())


def run(command: Sequence[str | Path], *, user: str | None = None, cwd: Path | None = None) -> None:
    """Run a program to its end. Raises ServiceError with what it printed when it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(
        words,
        user=user,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"{' '.join(words)} failed:\n{done.stdout.decode(errors='replace')[-4000:]}")


def unprivileged_user() -> str | None:
    """Whom to run a server as that refuses to be root; None when we are not root ourselves."""
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)
