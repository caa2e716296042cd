"""The project of a demo's run: the demo's definitions, with the state and the settings of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.demo.shipped import project_folder
from dovetail.features import Project, load
from dovetail.platform.errors import ConfigError

__all__ = ["project_of_run", "write_settings"]

#: The file in a run's folder that holds what of ``dovetail.toml`` suits its log.
_SETTINGS = "settings.json"


def write_settings(keep: Path, settings: Mapping[str, Any]) -> None:
    """Note what a run replaces of the demo's ``dovetail.toml``, besides where its state is."""
    (keep / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def project_of_run(keep: Path, definitions: Path | None = None) -> Project:
    """The demo's project with its state in ``keep``, as the run there has it; the folder may have been moved.

    ``definitions`` is the folder of its ``dovetail.toml`` and ``sql/``: those that Dovetail ships if left out.

    Raises:
        ConfigError: it is no demo's folder.
    """
    try:
        settings = json.loads((keep / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{keep} is no folder of a demo's run; `dovetail demo --keep {keep}` makes one") from error
    return load(
        definitions or project_folder(),
        **settings,
        storage={"state": str(keep.absolute())},
        tables={"item": {"path": str((keep / "item.parquet").absolute())}},
    )
