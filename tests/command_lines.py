"""Command lines in documents and in files for servers, read by the parser of ``dovetail`` itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer.main

from dovetail.cli.main import app

__all__ = ["parsed"]


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command that ``words`` after ``dovetail`` call, and its parameters by name.

    Nothing is run. An unknown command raises ``KeyError``, an unknown option what the parser raises.
    """
    command: Any = typer.main.get_command(app)
    names, rest = [], list(words)
    while hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    if not names:
        assert rest[0] in ("--version", "--help", "--install-completion", "--show-completion"), rest
        return "", {}
    return " ".join(names), dict(command.make_context(names[-1], rest).params)
