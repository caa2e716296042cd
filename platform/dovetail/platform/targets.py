"""Where something is to be written: looked at before any work is done for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dovetail.platform.errors import ConfigError

__all__ = ["require_file_target", "require_folder_target"]


def require_file_target(path: Path) -> None:
    """Refuse a file that could not be written; nothing is left of the trial.

    Raises:
        ConfigError: it is a folder or no regular file, there is no folder for it, or that takes no files.
    """
    _require_a_name(path)
    if path.is_dir():
        raise ConfigError(f"{path}: it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: it is no regular file; name a file elsewhere")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it, or name a file elsewhere")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{path}: it may not be written; name a file elsewhere")
    _require_room(path, path.parent)


def require_folder_target(path: str | Path) -> None:
    """Refuse a folder that could not be made or written into; nothing is left of the trial. URLs are not looked at.

    Raises:
        ConfigError: a file is in its way, or the nearest folder that there is takes no files.
    """
    if "://" in str(path):
        return
    folder = Path(path).absolute()
    _require_a_name(Path(path))
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ConfigError(f"{path}: {there} is no folder; name a folder elsewhere")
    _require_room(path, there)


def _require_a_name(path: Path) -> None:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: {why}; give another name") from None


def _require_room(target: str | Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{target}: {folder} takes no files: {error.strerror}; choose another place") from None
