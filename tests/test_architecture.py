"""The walls of the tree hold, and a hole of each kind would be seen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.architecture import MAX_FILES, MAX_LINES, RULES, SOURCE_ROOTS, Tree, read_tree
from tests.places import ROOT


@pytest.fixture(scope="module")
def tree() -> Tree:
    return read_tree(ROOT)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_tree_keeps(rule: str, tree: Tree) -> None:
    assert RULES[rule](tree) == []


def test_tests_are_in_small_files_and_folders_too() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    folders = Counter(path.parent for path in lengths)
    assert not {str(folder): files for folder, files in folders.items() if files > MAX_FILES}


def test_nothing_shadows_the_standard_library_or_closes_the_namespace() -> None:
    assert not [root for root in SOURCE_ROOTS if (ROOT / root / "__init__.py").exists()]
    assert not [root for root in SOURCE_ROOTS if (ROOT / root / "dovetail" / "__init__.py").exists()]


GROUND = "platform/dovetail/platform/ground.py"
OTHER = "platform/dovetail/platform/other.py"
VIEWS = "features/dovetail/features/views.py"

#: By rule, files that break it, and a part of what it must say.
HOLES = [
    (
        "imports_go_down",
        {GROUND: "from dovetail.app import worker", "platform/dovetail/app/worker.py": ""},
        "ground.py:1",
    ),
    (
        "imports_go_down",
        {GROUND: "import dovetail.features.views", VIEWS: ""},
        "platform imports dovetail.features.views",
    ),
    (
        "imports_go_down",
        {VIEWS: "def f():\n    from dovetail.trainer.learner import x", "trainer/dovetail/trainer/learner.py": "x = 1"},
        "views.py:2: features imports dovetail.trainer.learner",
    ),
    ("imports_go_down", {"platform/dovetail/attic/box.py": ""}, "attic stands on no floor"),
    ("imports_are_absolute", {GROUND: "from .other import x", OTHER: "x = 1"}, "ground.py:1: relative import"),
    (
        "no_circles",
        {
            GROUND: "from dovetail.platform.other import x",
            OTHER: "def f():\n    import dovetail.platform.third",
            "platform/dovetail/platform/third.py": "from dovetail.platform import ground",
        },
        "dovetail.platform.ground → dovetail.platform.other → dovetail.platform.third",
    ),
    (
        "no_circles_of_rooms",
        {
            "features/dovetail/features/plan/a.py": "import dovetail.features.stream.b",
            "features/dovetail/features/plan/c.py": "",
            "features/dovetail/features/stream/b.py": "",
            "features/dovetail/features/stream/deep/d.py": "from dovetail.features.plan import c",
            "features/dovetail/features/__init__.py": "",
        },
        "circle of rooms in dovetail/features: plan ↔ stream",
    ),
    ("files_are_small", {GROUND: "\n" * (MAX_LINES + 1)}, f"ground.py: {MAX_LINES + 1} lines"),
    (
        "folders_are_small",
        {f"platform/dovetail/platform/file{n}.py": "" for n in range(MAX_FILES + 1)},
        f"platform/dovetail/platform: {MAX_FILES + 1} files",
    ),
    (
        "names_say_what_no_other_says",
        {GROUND: "", "trainer/dovetail/trainer/ground.py": ""},
        "ground.py stands 2 times",
    ),
    ("names_say_what_no_other_says", {"platform/dovetail/platform/rows/rows.py": ""}, "repeats the name of its folder"),
    ("names_say_what_no_other_says", {"platform/dovetail/platform/rows/rows_wire.py": ""}, "repeats the name"),
    ("libraries_stay_at_home", {GROUND: "import duckdb"}, "ground.py:1: imports duckdb"),
    ("libraries_stay_at_home", {VIEWS: "def f():\n    from faust.app import App"}, "views.py:2: imports faust"),
    ("exports_are_told", {GROUND: "def helper():\n    ..."}, "no __all__, and helper is public"),
    ("exports_are_told", {GROUND: '__all__ = ["gone"]'}, "__all__ has gone"),
    (
        "imports_take_what_is_told",
        {GROUND: "def f():\n    from dovetail.platform.other import x", OTHER: '__all__ = ["y"]\nx = y = 1'},
        "ground.py:2: takes x, which __all__ of platform/dovetail/platform/other.py has not",
    ),
]


@pytest.mark.parametrize(("rule", "files", "said"), HOLES)
def test_a_hole_is_seen(rule: str, files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert said in "\n".join(RULES[rule](read_tree(tmp_path)))


def test_every_rule_has_a_hole_that_shows_it() -> None:
    assert {rule for rule, _, _ in HOLES} == set(RULES)
