"""CHANGELOG.md has the form of Keep a Changelog, which tools and people read by its headings."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise

from tests.places import ROOT

TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
VERSIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]


def test_it_begins_with_what_is_unreleased() -> None:
    assert TEXT.startswith("# Changelog\n")
    first, *released = [version.splitlines()[0] for version in VERSIONS]
    assert first == "[Unreleased]"
    assert [line for line in released if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line)] == []
    numbers = [tuple(int(part) for part in line[1 : line.index("]")].split(".")) for line in released]
    assert all(newer > older for newer, older in pairwise(numbers))
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert not numbers or tuple(int(part) for part in ours.split(".")) >= numbers[0]


def test_each_version_has_each_kind_of_change_once() -> None:
    for version in VERSIONS:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert [kind for kind in kinds if kind not in KINDS] == []
        assert len(kinds) == len(set(kinds))
