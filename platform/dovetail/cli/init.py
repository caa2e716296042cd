"""``dovetail init``: a new project to change, one sample of each kind of definition in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from dovetail.cli.output import terminal
from dovetail.demo.shipped import minimal_folder, project_folder
from dovetail.platform.errors import ConfigError

__all__ = ["run"]


def run(folder: Path, *, minimal: bool = False) -> int:
    """Write ``dovetail.toml`` and ``sql/`` into ``folder``, which is made if it is not there.

    ``minimal``: the smallest project instead of one with a sample of everything.

    Raises:
        ConfigError: one of them is there already; nothing is written.
    """
    for name in ("dovetail.toml", "sql"):
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; choose another folder, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    source = minimal_folder() if minimal else project_folder()
    shutil.copy(source / "dovetail.toml", folder / "dovetail.toml")
    shutil.copytree(source / "sql", folder / "sql")
    console = terminal()
    console.print(f"{folder}: dovetail.toml and {len(list((folder / 'sql').glob('*.sql')))} files in sql/")
    console.print(f"next: change them, then `dovetail check -p {folder}` and `dovetail worker -p {folder}`")
    return 0
