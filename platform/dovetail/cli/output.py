"""Standard output and standard error of the command line."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.text import Text

__all__ = ["errors", "print_json", "terminal", "verdict"]

#: Standard error, for messages to people.
errors = Console(stderr=True)


def terminal(*, stderr: bool = False) -> Console:
    """A console for text as it is: no brackets, colons or numbers of it are taken for markup.

    A terminal wraps long lines at words. A pipe or a file gets each line whole, however long: a program that reads
    lines, or a person who looks at the file, needs them so.
    """
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def verdict(holds: bool) -> Text:
    """The word for a check that holds or fails."""
    return Text("holds", "bold green") if holds else Text("FAILS", "bold red")


def print_json(data: object) -> None:
    """JSON to standard output, for programs."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
