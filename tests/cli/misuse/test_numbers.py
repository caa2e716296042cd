"""Every whole number that a command takes has bounds, and one outside of them is a misuse that is said in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest
import typer
from typer.models import ParameterInfo
from typer.testing import CliRunner

from dovetail.cli.main import app


def numbers(commands: typer.Typer) -> Iterator[tuple[str, ParameterInfo]]:
    """Every parameter of the commands, and of those below, that is a whole number, by command and name."""
    for command in commands.registered_commands:
        assert command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            type_, *more = get_args(hint) or (hint,)
            declared = next((each for each in more if isinstance(each, ParameterInfo)), None)
            if declared is not None and (type_ is int or int in get_args(type_)):
                yield f"{command.callback.__name__} {name}", declared
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from numbers(group.typer_instance)


def test_every_number_has_bounds() -> None:
    found = dict(numbers(app))
    assert len(found) > 15
    assert not [name for name, declared in found.items() if declared.max is None]


@pytest.mark.parametrize("arguments", ["train --batch 99999999999", "worker --health-port 65536", "demo --requests 0"])
def test_a_number_out_of_bounds_is_a_misuse(arguments: str) -> None:
    said = CliRunner().invoke(app, arguments.split())
    assert said.exit_code == 2
    assert "Invalid value for" in said.output
    assert arguments.split()[1] in said.output
