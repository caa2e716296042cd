"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Engine", "EngineOption", "JsonOption", "MasterOption", "ProjectOption"]


class Engine(StrEnum):
    """Where batch work is computed."""

    local = "local"
    spark = "spark"


ProjectOption = Annotated[Path, typer.Option("--project", "-p", help="Folder with dovetail.toml and sql/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EngineOption = Annotated[
    Engine | None, typer.Option(help="Where it is computed; as the batch section says if left out.", show_default=False)
]
MasterOption = Annotated[
    str | None, typer.Option(help="Spark's master: local[2], spark://…, yarn, k8s://…, sc://….", show_default=False)
]
