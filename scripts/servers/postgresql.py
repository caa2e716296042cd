"""PostgreSQL, run as an unprivileged user where we are root, because it refuses to be."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from scripts.servers.base import Server, run, unprivileged_user

__all__ = ["PostgreSQL"]

# Where Debian keeps the programs, by major version.
_DEBIAN = Path("/usr/lib/postgresql")


class PostgreSQL(Server):
    """A PostgreSQL server that trusts everybody on this machine.

    It does not sync to disk: a kill of its processes loses nothing that was committed, a loss of power might.
    """

    name = "postgresql"
    fixed_ports: ClassVar = {"postgresql": 15_432}
    packages: ClassVar = {"initdb": "postgresql", "postgres": "postgresql"}
    stop_signal = signal.SIGINT  # SIGTERM would wait for the clients to leave

    @property
    def url(self) -> str:
        """``postgresql+psycopg://USER@127.0.0.1:PORT/postgres``."""
        return f"postgresql+psycopg://{self._superuser()}@127.0.0.1:{self.port}/postgres"

    @classmethod
    def missing(cls) -> list[str]:
        """``initdb`` and ``postgres``, on the path or where Debian keeps them."""
        return [program for program in ("initdb", "postgres") if _program(program) is None]

    def format(self) -> None:
        """``initdb``."""
        user = unprivileged_user()
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(data, user)
        options = ["--auth=trust", f"--username={self._superuser()}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        run([_program("initdb") or "initdb", "-D", data, *options], user=user, cwd=data)

    def start(self) -> None:
        """As the base does; a lock that a killed one has left is removed first.

        PostgreSQL would do so itself, unless the dead process still has its number because nobody took its exit code.
        """
        if self.pid is None:
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def command(self) -> Sequence[str | Path]:
        """``postgres`` with its settings."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [_program("postgres") or "postgres", "-D", self.folder / "data", *words]

    def answers(self) -> bool:
        """Whether it accepts connections, by its own word: it listens before it has recovered."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            # Rewritten before it listens, so this is not what a killed one has left.
            status = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(status) > 7 and status[7].strip() == "ready"

    def _user(self) -> str | None:
        return unprivileged_user()

    def _superuser(self) -> str:
        return unprivileged_user() or getpass.getuser()


def _program(name: str) -> str | None:
    if found := shutil.which(name):
        return found
    versions = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: _number(path.parts[-3]))
    return str(versions[-1]) if versions else None


def _number(version: str) -> float:
    try:
        return float(version)
    except ValueError:
        return 0.0
