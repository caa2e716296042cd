"""The ``dovetail`` command.

Importing this package lets the process look for garbage seldom: it is for a process that is the command.
"""

from __future__ import annotations

import gc

# Imports and definitions make much and let go of little: looking for garbage after each 700 objects takes a tenth of a
# short command's time. So this stands before all other imports.
gc.set_threshold(50_000)

from dovetail.cli.main import main  # noqa: E402

__all__ = ["main"]
