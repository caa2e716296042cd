"""Command lines in documents and in files for servers, read by the parser of ``dovetail`` itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from dovetail.cli.main import app

__all__ = ["parsed"]


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command that ``words`` after ``dovetail`` call, and its parameters by name.

    Nothing is run. An unknown command raises ``KeyError``, an unknown option what the parser raises.
    """
    command: Any = _dovetail()
    names, rest = [], list(words)
    while hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    if not names:
        assert rest[0] in ("--version", "--help", "--install-completion", "--show-completion"), rest
        return "", {}
    # Before 0.29, Typer made paths of texts only when it called the command; its parameters said their types.
    typed = {each.name: each.type.name for each in command.params if hasattr(each, "type")}
    paths = {name for name, kind in typed.items() if kind in ("path", "file", "directory")}
    given = command.make_context(names[-1], rest).params
    return " ".join(names), {name: _path(value) if name in paths else value for name, value in given.items()}


@cache
def _dovetail() -> Any:
    """The command, which takes 0.05 s to make."""
    return typer.main.get_command(app)


def _path(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_path(each) for each in value]
    return Path(value) if isinstance(value, str) else value
