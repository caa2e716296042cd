"""Tables of every command, at 80 and 200 columns and through a pipe: nothing is cut off, nothing left out."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from dovetail.cli.listing import Column, Listing
from dovetail.cli.main import app
from tests.app import small_project
from tests.cli.trained_project import PROJECT, samples

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: A line of progress, which a terminal gets as a bar.
_PROGRESS = re.compile(r"(?m)^.*\d of [\d,]+ (days|rows)$")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose worker has run and stopped."""
    folder = tmp_path_factory.mktemp("lived") / "project"
    small_project.write_project(folder)
    small_project.run(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a file of samples, two versions of a model, and a candidate that was refused."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "dovetail.toml").write_text(PROJECT, encoding="utf-8")
    pq.write_table(samples(), folder / "s.parquet")
    for _ in range(2):
        run("train", "-p", str(folder), str(folder / "s.parquet"), "--out", str(folder / "m"))
    return folder


def run(*arguments: str, columns: int | None = None, says: int = 0) -> str:
    """What a command prints to a terminal of so many columns, its styles taken off; to a pipe when None."""
    width = {"COLUMNS": str(columns), "FORCE_COLOR": "1"} if columns else {"COLUMNS": "40"}
    result = CliRunner(env=width).invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == says, result.output
    return _STYLE.sub("", result.stdout)


STORED = {
    "check": ["check"],
    "check --diff": ["check", "--diff"],
    "audit": ["audit"],
    "audit --list": ["audit", "--list", "sampled"],
    "join": ["join", "--compare"],
    "consistency": ["consistency"],
    "bootstrap": ["bootstrap", "activity", "--replace"],
}
MODELS = {
    "train": ["train", "s.parquet", "--out", "again", "--passes", "2"],
    "evaluate": ["evaluate", "s.parquet", "-m", "m@1", "--slice", "city"],
    "model list": ["model", "list", "m"],
    "model show": ["model", "show", "m"],
    "model export": ["model", "export", "w.txt", "m", "--format", "text"],
    "model rollback": ["model", "rollback", "m@1"],
    "model shadow": ["model", "shadow", "m@1"],
    "model compare": ["model", "compare", "m@1", "m@2", "--samples", "s.parquet"],
    "model explain": ["model", "explain", "m@1", "--samples", "s.parquet"],
    "model collisions": ["model", "collisions", "--samples", "s.parquet"],
}


@pytest.mark.parametrize("command", sorted(STORED))
def test_a_command_over_stored_rows_is_whole_at_any_width(lived: Path, command: str) -> None:
    _require_whole([*STORED[command], "-p", str(lived)])


@pytest.mark.parametrize("columns", [80, 200, None])
def test_backfill_is_whole_at_any_width(lived: Path, tmp_path: Path, columns: int | None) -> None:
    out = str(tmp_path / ("long" * 20))
    shown = run("backfill", "ranking", "--out", out, "-p", str(lived), columns=columns)
    assert "1 days written" in " ".join(shown.split())
    if columns is None:
        assert f"{out}: 1 days written, 8 rows; 0 days were done before" in shown.splitlines()


@pytest.mark.parametrize("command", sorted(MODELS))
def test_a_command_about_models_is_whole_at_any_width(
    trained: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    _require_whole(MODELS[command])


def _require_whole(arguments: Sequence[str]) -> None:
    piped = run(*arguments)
    # A path may be broken anywhere; the lines of a cell are joined by commas in a pipe.
    words = Counter(word.rstrip(",") for word in _PROGRESS.sub("", piped).split() if "/" not in word)
    assert words
    words["name"] -= 1  # in a block, the first column stands above the others without its title
    for columns in (80, 200):
        shown = run(*arguments, columns=columns)
        assert "…" not in shown.replace("… ", "")  # `audit` begins a line with one
        assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= columns
        if "--out" not in arguments:  # the next version has another number
            assert not words - Counter(word.rstrip(",") for word in shown.split()), shown


def test_help_has_nothing_that_would_be_taken_for_markup() -> None:
    """Rich leaves out what stands in brackets, as a tag."""
    texts, waiting = list[str](), [typer.main.get_command(app)]
    while waiting:
        command: Any = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        texts += [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
    assert len(texts) > 100
    assert not [text for text in texts if re.search(r"\[[a-z/@#]", text)]


def test_evaluate_keeps_its_first_column(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    lines = run(*MODELS["evaluate"], columns=80).splitlines()
    assert re.match(r"scope +samples +positive +log-loss +AUC +NE +Σp/Σy +accuracy$", lines[1].rstrip())
    assert re.match(r"2024-10-04 00:00 +\d", lines[3])
    assert any(line.startswith("slice:city=c0 ") for line in lines)


def test_check_gives_its_advice_whole_at_80_columns_on_a_real_terminal(tmp_path: Path) -> None:
    small_project.write_project(tmp_path / "p", small_project.TOML.replace('"user_id"', '"user_id"\npartitions = 2', 1))
    tables = tmp_path / "p" / "sql" / "tables.sql"
    tables.write_text(tables.read_text().replace("behaviour (", "behaviour (kind VARCHAR, ", 1))
    view = small_project.VIEW.replace("user_id,", "kind,").replace("BY user_id", "BY kind")
    (tmp_path / "p" / "sql" / "kinds.sql").write_text(view)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    command = [sys.executable, "-c", "from dovetail.cli import main; main()", "check", "-p", str(tmp_path / "p")]
    done = subprocess.run(command, stdout=theirs, stdin=theirs, env={**environment, "TERM": "xterm"}, check=False)
    os.close(theirs)
    shown = ""
    while read := _read(ours):
        shown += read
    os.close(ours)
    assert done.returncode == 0
    lines = _STYLE.sub("", shown).splitlines()
    assert max(map(len, lines)) <= 80
    advice = "up to 2 such states per key, one per partition ([rekeyed.NAME] brings them together)"
    assert advice in " ".join(" ".join(lines).split())


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 1 << 16).decode()
    except OSError:  # Linux says so at the end of what was written
        return ""


@given(
    st.lists(
        st.tuples(*[st.text("ab中[]: ", max_size=40), st.integers(0, 10**9).map(str), st.text("xy/ \n", max_size=99)]),
        max_size=5,
    ),
    st.integers(30, 220),
)
def test_nothing_of_a_cell_is_lost_at_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Listing("title", [Column("name"), Column("rows", "number"), Column("such as", "prose", least=10)], "note")
    for row in rows:
        table.add(*row)
    console = Console(width=width, force_terminal=True, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        table.print(console)
    shown = _STYLE.sub("", captured.get())
    assert all(cell_len(line) <= width for line in shown.splitlines())
    wanted = Counter(re.sub(r"\s", "", "".join("".join(row) for row in rows)))
    assert not wanted - Counter(shown)
