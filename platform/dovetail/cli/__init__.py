"""The ``dovetail`` command."""

from __future__ import annotations

from dovetail.platform.cli import batch as batch  # adds its commands
from dovetail.platform.cli.main import main

__all__ = ["main"]
