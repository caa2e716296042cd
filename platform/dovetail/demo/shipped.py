"""Where the demo's project is: its ``dovetail.toml`` and ``sql/``, which a new project is copied from, too."""

from __future__ import annotations

from pathlib import Path

from dovetail.platform.errors import ConfigError

__all__ = ["minimal_folder", "project_folder"]


def project_folder() -> Path:
    """The demo's ``dovetail.toml`` and ``sql/``: in the package when installed, at the root of a checkout.

    Raises:
        ConfigError: neither is there.
    """
    for folder in (Path(__file__).parent / "project", Path(__file__).parents[3]):
        if (folder / "dovetail.toml").is_file() and (folder / "sql").is_dir():
            return folder
    raise ConfigError("the demo's dovetail.toml and sql/ are missing; install Dovetail again or run from a checkout")


def minimal_folder() -> Path:
    """The smallest project there is something to learn from: ``dovetail.toml`` and four files in ``sql/``."""
    return Path(__file__).parent / "minimal"
