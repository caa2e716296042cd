"""Docstrings name their subject: none of a module or of a public name begins with a riddle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture import SOURCE_ROOTS
from tests.places import ROOT

#: A first sentence that begins so has no noun for its subject.
RIDDLES = ("what", "whatever", "whoever", "which", "whichever")


def riddles(text: str, file: str) -> Iterator[str]:
    """``FILE:LINE: DOCSTRING`` of each module, class and function whose docstring begins with a riddle.

    Names that begin with an underscore are passed over, and what is inside them or inside a function.
    """
    nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [ast.parse(text)]
    for node in nodes:
        docstring = ast.get_docstring(node)
        if docstring and docstring.replace("`", "").split()[0].lower().strip(",:;") in RIDDLES:
            line = node.body[0].lineno
            yield f"{file}:{line}: {docstring.splitlines()[0]}"
        if isinstance(node, ast.Module | ast.ClassDef):
            nodes += [
                child
                for child in node.body
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and not child.name.startswith("_")
            ]


def files() -> list[Path]:
    return sorted(path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py"))


def test_no_docstring_begins_with_a_riddle() -> None:
    found = [each for path in files() for each in riddles(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('"""What is kept."""', [1]),
        ('"""The rows."""\nclass A:\n    """Which rows."""\n    def f(self):\n        """Whoever asks."""', [3, 5]),
        ('def f():\n    """``which``: the one."""', [2]),
        ('def _f():\n    """What is hidden."""\nclass _A:\n    def f(self):\n        """What is hidden."""', []),
        ('"""Says what is kept."""\ndef f():\n    """Rows which fit."""\n    def g():\n        """What."""', []),
    ],
)
def test_a_riddle_is_seen(text: str, lines: list[int]) -> None:
    assert [int(each.split(":")[1]) for each in riddles(text, "x.py")] == lines
