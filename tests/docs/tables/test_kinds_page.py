"""docs/kinds-of-faults.md: every test that it names is there, and every file that a mend is in."""

from __future__ import annotations

import re

import pytest

from tests.places import ROOT

PAGE = (ROOT / "docs" / "kinds-of-faults.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
KINDS = [row for row in ROWS if row[0] != "kind"]
SOURCES = [path for room in ("platform", "features", "joiners", "trainer") for path in (ROOT / room).rglob("*.py")]


def test_there_are_kinds() -> None:
    assert len(KINDS) > 50
    assert all(len(row) == 3 for row in KINDS)


@pytest.mark.parametrize("row", KINDS, ids=[row[0][:40] for row in KINDS])
def test_what_a_row_names_is_there(row: list[str]) -> None:
    _, mended, shown = row
    for file in re.findall(r"`([\w/]+\.(?:py|toml))`", mended):
        assert file == "pyproject.toml" or any(path.as_posix().endswith(f"/{file}") for path in SOURCES), file
    (named,) = re.findall(r"`([^`]+)`", shown)
    path, _, test = named.partition("::")
    assert f"def {test}" in (ROOT / "tests" / path).read_text(encoding="utf-8")
