"""The page of every command with its arguments and options, made from the command's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from dovetail.cli.main import app
from scripts.site.tables import cell, code, table

__all__ = ["command_page", "commands"]


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its whole name, like ``model list``, in the order of ``dovetail --help``."""
    root: Any = typer.main.get_command(app)
    todo = [(name, command) for name, command in root.commands.items()]
    while todo:
        name, command = todo.pop(0)
        if hasattr(command, "commands"):
            todo[:0] = [(f"{name} {below}", each) for below, each in command.commands.items()]
        else:
            yield name, command


def command_page() -> str:
    """The page, as Markdown."""
    parts = [
        "# Commands",
        "",
        (
            "Made from the commands themselves; `dovetail COMMAND --help` says the same. Exit codes: 0 done, 1 a check "
            "failed or the worker did, 2 a wrong argument, configuration or definition."
        ),
        "",
    ]
    for name, command in commands():
        parts += [f"## dovetail {name}", "", str(command.help or "").strip(), ""]
        rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            parts += [table(("argument or option", "default", "what it says"), rows)]
    return "\n".join(parts)


def _row(parameter: Any) -> tuple[str, str, str]:
    metavar = parameter.name.upper()
    if parameter.param_type_name == "argument":
        written = metavar if parameter.required else f"[{metavar}]"
    else:
        written = " / ".join([", ".join(parameter.opts), *parameter.secondary_opts])
        if not parameter.is_flag:
            written = f"{written} {metavar}"
    default = parameter.default
    shown = "required" if parameter.required else "" if default in (None, False, "", ()) else code(str(default))
    return code(written), shown, cell(getattr(parameter, "help", None) or "")
