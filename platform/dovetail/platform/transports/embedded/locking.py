"""A lock on a path that dies with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dovetail.platform.errors import LogLocked

__all__ = ["FileLock"]


class FileLock:
    """Exclusive lock on ``path``, held from construction to :meth:`release` or the end of the process.

    It lives in a file of its own beside the path: closing any handle of the SQLite file itself would drop SQLite's own
    locks. The lock file stays when the lock is released; removing it would let two processes lock two files.

    Raises LogLocked, naming the holder, when another process has it.
    """

    def __init__(self, path: Path) -> None:
        beside = path.with_name(path.name + ".lock")
        self._handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._handle, 32).decode().strip() or "unknown"
            os.close(self._handle)
            raise LogLocked(
                f"{path} is open in process {holder}; an embedded log serves one process: "
                "stop that one, give this one another path, or use a kafka:// broker"
            ) from error
        os.ftruncate(self._handle, 0)
        os.write(self._handle, str(os.getpid()).encode())

    def release(self) -> None:
        """Free the lock."""
        os.close(self._handle)
