"""What is printed in tables is printed as it is: rich would take brackets in it for markup."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dovetail.cli.main import app
from tests.app.small_project import TOML, write_project

BY_KIND = """
SELECT kind, count(*) OVER w AS events FROM behaviour
WINDOW w AS (PARTITION BY kind ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
"""


def test_check_names_the_section_that_brings_states_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    write_project(folder, TOML.replace('key = "user_id"', 'key = "user_id"\npartitions = 2', 1))
    tables = folder / "sql" / "tables.sql"
    tables.write_text(tables.read_text().replace("behaviour (", "behaviour (kind VARCHAR, ", 1))
    (folder / "sql" / "kinds.sql").write_text(BY_KIND)
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(app, ["check", "--project", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "up to 2 such states per key, one per partition ([rekeyed.NAME] brings them together)" in result.output


LISTS = """
SELECT user_id, arg_max(user_id, event_time, 3) OVER w AS users, arg_max(event_time, event_time, 3) OVER w AS times
FROM behaviour
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
"""


def test_check_warns_of_lists_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder, TOML)
    (folder / "sql" / "lists.sql").write_text(LISTS)
    result = CliRunner().invoke(app, ["check", "--project", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    (said,) = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert "2 lists of the same events (user_id, event_time)" in said
    assert "arg_max({'user_id': user_id, 'event_time': event_time}, event_time, 3) OVER w" in said


@pytest.mark.parametrize(
    ("command", "said"),
    [("worker", "Options replace those of the worker section."), ("join", "One of labels.targets;")],
)
def test_help_has_nothing_left_out(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(app, [command, "--help"], catch_exceptions=False)
    assert said in " ".join(result.output.split())
