"""Standard output and standard error of the command line."""

from __future__ import annotations

import json
import sys

from rich.console import Console

__all__ = ["errors", "print_json"]

#: Standard error, for messages to people.
errors = Console(stderr=True)


def print_json(data: object) -> None:
    """JSON to standard output, for programs."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
