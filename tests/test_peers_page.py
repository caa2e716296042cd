"""The page that sets Dovetail beside its peers has a place for each comparison, and only that place is written."""

from __future__ import annotations

import datetime as dt
import importlib
from pathlib import Path

import pytest

measuring = importlib.import_module("benchmarks.peers.measuring")
page = importlib.import_module("benchmarks.peers.page")
COMPARISONS = importlib.import_module("benchmarks.peers.comparisons").COMPARISONS


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_a_comparison_has_its_place_and_no_other_is_written(name: str, tmp_path: Path) -> None:
    before, copy = page.PAGE.read_text(encoding="utf-8"), tmp_path / "page.md"
    copy.write_text(before, encoding="utf-8")
    page.write(name, "a table", copy)
    written = copy.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: written by python -m benchmarks.peers -->", f"<!-- end of {name} -->"
    assert f"{begin}\na table\n{end}" in written
    assert written.partition(begin)[0] == before.partition(begin)[0]
    assert written.partition(end)[2] == before.partition(end)[2]


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="has 0 places for streams"):
        page.write("streams", "a table", tmp_path / "page.md")


def test_ahead_and_behind_are_told_alike() -> None:
    figures = {"Dovetail": [2.0, 1.0, 3.0], "slower": [8.0, 1.0, 5.0], "faster": [1.0, 1.0, 0.5]}
    measured = [measuring.Measured(title, seconds, seconds) for title, seconds in figures.items()]
    comparison = COMPARISONS["streams"]
    said = page.text(
        measuring.Outcome(comparison, 100, "About.", measured, ["x (why)"], (1.0, 2.0)), dt.date(2026, 1, 2)
    )
    assert "| Dovetail | 2.00 (2.00, 1.00, 3.00) | 50 |  | 1.00 |" in said
    assert "| slower | 5.00 (8.00, 1.00, 5.00) | 20 | ahead: 2.50 x | 1.00 |" in said
    assert "| faster | 1.00 (1.00, 1.00, 0.50) | 100 | behind: 0.50 x | 0.50 |" in said
    assert "- not measured: x (why)" in said
    assert "load 1 to 2" in said


def test_contestants_are_modules_and_each_peer_says_how_it_agrees() -> None:
    for comparison in COMPARISONS.values():
        ours, *others = comparison.contestants
        assert ours.title.startswith("Dovetail")
        assert ours.environment is None
        for each in comparison.contestants:
            assert (page.ROOT / "benchmarks" / "peers" / f"{each.module.replace('.', '/')}.py").is_file()
        silent = [each.title for each in others if each.agrees is None]
        assert [title for title in silent if not title.startswith("Dovetail")] == []
