"""The ``dovetail`` command."""

from __future__ import annotations

from dovetail.cli.main import main

__all__ = ["main"]
