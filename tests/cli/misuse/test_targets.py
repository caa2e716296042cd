"""Every file or folder that a command is to write is looked at before the command does anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo
from typer.testing import CliRunner

from dovetail.cli.main import app
from dovetail.cli.models.commands import plot_target
from dovetail.cli.options import file_target, folder_target
from dovetail.platform.errors import ConfigError

#: Paths that are read.
READ = {"project", "data", "kept", "tokens_file", "file"}
FAULTS = {
    file_target: ["folder.html", "absent/x.html", "taken.html/x.html", f"{'x' * 300}.html", "/proc/x.html"],
    folder_target: ["taken.html", "taken.html/sub/x", "x" * 300, "/proc/x"],
}
FAULTS[plot_target] = FAULTS[file_target]


def parameters(commands: typer.Typer, *above: str) -> Iterator[tuple[list[str], str, ParameterInfo, list[str]]]:
    """Of every command: its words, each parameter that holds a path, and arguments that it needs beside that."""
    for command in commands.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        declared: dict[str, tuple[Any, ParameterInfo]] = {}
        for parameter, hint in get_type_hints(command.callback, include_extras=True).items():
            type_, *more = get_args(hint) or (hint,)
            if info := next((each for each in more if isinstance(each, ParameterInfo)), None):
                declared[parameter] = type_, info
        given = command.callback.__kwdefaults__ or {}
        defaults = command.callback.__defaults__ or ()
        names = command.callback.__code__.co_varnames[: command.callback.__code__.co_argcount]
        needed = set(names[: len(names) - len(defaults)]) - {*given}
        for parameter, (type_, info) in declared.items():
            if type_ is Path or Path in get_args(type_) or parameter == "out":
                others: list[str] = []
                for other in needed - {parameter}:
                    others += ["x"] if isinstance(declared[other][1], ArgumentInfo) else [f"--{other}", "x"]
                yield [*above, name], parameter, info, others
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from parameters(group.typer_instance, *above, str(group.name))


TARGETS = [each for each in parameters(app) if each[1] not in READ]


def test_every_path_is_read_or_looked_at() -> None:
    assert len(TARGETS) >= 14
    assert not [(words, name) for words, name, info, _ in TARGETS if info.callback not in FAULTS]


@pytest.mark.parametrize(
    ("words", "name", "info", "others"), TARGETS, ids=[" ".join([*words, name]) for words, name, *_ in TARGETS]
)
def test_a_target_that_cannot_be_is_refused_before_any_work(
    words: list[str],
    name: str,
    info: ParameterInfo,
    others: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "taken.html").touch()
    monkeypatch.chdir(tmp_path)
    words_of = (info.default, *(info.param_decls or ()))  # within Annotated the first of them counts as the default
    option = next((each for each in words_of if isinstance(each, str) and each.startswith("--")), f"--{name}")
    for fault in FAULTS[info.callback]:  # type: ignore[index]
        given = [option, fault] if isinstance(info, OptionInfo) else [fault]
        said = CliRunner().invoke(app, [*words, *given, *others])
        assert isinstance(said.exception, ConfigError), (fault, said.output)
        assert str(said.exception).startswith(f"{fault}: ")
        assert "; " in str(said.exception)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.html", "taken.html"]
