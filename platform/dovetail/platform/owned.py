"""Files and folders for their owner only: state, models and databases hold what users did.

What is there already keeps its mode.
"""

from __future__ import annotations

import os
from pathlib import Path

from dovetail.platform.errors import StoreError

__all__ = ["owned_file", "owned_folder"]


def owned_folder(path: Path) -> None:
    """Make the folder, and those above it that are missing, for its owner only, unless it is there.

    Raises:
        StoreError: there is a file in its place, or nothing may be written there.
    """
    if not path.is_dir():
        owned_folder(path.parent)
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: no folder can be made here: {error.strerror}; name another one") from error


def owned_file(path: Path) -> None:
    """Make the file, empty, and its folders, for their owner only, unless it is there.

    SQLite gives the files that it keeps beside a database the database's own mode.

    Raises:
        StoreError: there is a folder in its place, or nothing may be written there.
    """
    owned_folder(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: no file can be made here: {error.strerror}; name another place") from error
