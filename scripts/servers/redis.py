"""Redis, which saves when it is told to and never by itself: a kill loses everything since the last save."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from scripts.servers.base import Server, ServiceError

__all__ = ["Redis"]


class Redis(Server):
    """A Redis server, with DEBUG allowed to clients of this machine."""

    name = "redis"
    fixed_ports: ClassVar = {"redis": 16_379}
    packages: ClassVar = {"redis-server": "redis-server"}

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @classmethod
    def missing(cls) -> list[str]:
        """``redis-server``."""
        return [] if shutil.which("redis-server") else ["redis-server"]

    def format(self) -> None:
        """The configuration and an empty folder."""
        (self.folder / "data").mkdir()
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder / "data"),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
        }
        if _version() >= 7:  # before, nobody had to be asked
            settings["enable-debug-command"] = "local"
        lines = [f"{key} {value}\n" for key, value in settings.items()]
        (self.folder / "redis.conf").write_text("".join(lines))

    def command(self) -> Sequence[str | Path]:
        """``redis-server`` with its configuration."""
        return ["redis-server", self.folder / "redis.conf"]

    def answers(self) -> bool:
        """Whether it says PONG; while it loads a save it says LOADING."""
        try:
            return self.ask("PING", seconds=1) == "+PONG"
        except OSError:
            return False

    def ask(self, *words: str, seconds: float = 30) -> str:
        """Send a command whose answer is one line, return that line, type character and all: ``+OK``, ``-ERR ...``."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return answer.readline().decode().rstrip()

    def save(self) -> None:
        """Write everything to disk now: what a later :meth:`kill` and :meth:`start` come back to."""
        self._must("SAVE")

    def flush(self) -> None:
        """FLUSHALL."""
        self._must("FLUSHALL")

    def hold(self, milliseconds: int) -> None:
        """Answer no client for this long (CLIENT PAUSE); returns at once."""
        self._must("CLIENT", "PAUSE", str(milliseconds), "ALL")

    def _must(self, *words: str) -> None:
        answer = self.ask(*words)
        if answer != "+OK":
            raise ServiceError(f"redis answers {answer!r} to {' '.join(words)}")


def _version() -> int:
    text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", text)
    return int(found.group(1)) if found else 0
