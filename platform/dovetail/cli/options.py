"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "ProjectOption"]

ProjectOption = Annotated[Path, typer.Option("--project", "-p", help="Folder with dovetail.toml and sql/.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
