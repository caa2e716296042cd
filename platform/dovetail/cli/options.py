"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dovetail.platform.errors import ConfigError
from dovetail.platform.targets import require_file_target, require_folder_target

__all__ = [
    "Engine",
    "EngineOption",
    "JsonOption",
    "MasterOption",
    "ProjectOption",
    "SceneOption",
    "file_target",
    "folder_target",
]


def file_target(path: Path | None) -> Path | None:
    """Callback of an option or argument that names a file to write.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is not None:
        require_file_target(path)
    return path


_Folder = TypeVar("_Folder", str, Path)


def folder_target(path: _Folder | None) -> _Folder | None:
    """Callback of an option or argument that names a folder, or an fsspec URL, to write into.

    Raises:
        ConfigError: it cannot be made, or not be written into.
    """
    if path is not None:
        require_folder_target(path)
    return path


def _named(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Callback of ``--scene``: a name that is given is not empty, as that of a variable without a value would be.

    Raises:
        ConfigError: it is.
    """
    source = context.get_parameter_source(parameter.name or "")
    if not value and source is not None and source.name != "DEFAULT":
        raise ConfigError("--scene '': write the name of a scene; leave --scene out for the one without a name")
    return value


class Engine(StrEnum):
    """Where batch work is computed."""

    local = "local"
    spark = "spark"


ProjectOption = Annotated[Path, typer.Option("--project", "-p", help="Folder with dovetail.toml and sql/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SceneOption = Annotated[str, typer.Option(help="One of scenes; the one without a name if left out.", callback=_named)]
EngineOption = Annotated[
    Engine | None, typer.Option(help="Where it is computed; as the batch section says if left out.", show_default=False)
]
MasterOption = Annotated[
    str | None, typer.Option(help="Spark's master: local[2], spark://…, yarn, k8s://…, sc://….", show_default=False)
]
