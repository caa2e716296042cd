"""``dovetail.sdk`` gives what a program needs, typed, and costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, assert_type

import pytest

from dovetail import sdk
from dovetail.platform import errors
from dovetail.sdk import ProjectClient, load
from tests.places import ROOT

SOURCE = ROOT / "platform/dovetail/sdk/__init__.py"


def imported_for_types() -> dict[str, str]:
    """What type checkers see: by name, the module that ``if TYPE_CHECKING`` imports it from."""
    guard = next(node for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_what_type_checkers_see_is_what_a_program_gets() -> None:
    homes: dict[str, str] = vars(sdk)["_HOMES"]
    assert imported_for_types() == homes
    eager = {name for name in errors.__all__ if name in sdk.__all__}
    assert {*homes, *eager, "__version__"} == set(sdk.__all__) == set(dir(sdk))
    for name, home in homes.items():
        assert getattr(sdk, name) is getattr(import_module(home), name)


def test_every_error_that_a_caller_may_meet_is_there() -> None:
    raised = {name for name in errors.__all__ if _is_raised(name)}
    assert raised <= set(sdk.__all__)


def _is_raised(name: str) -> bool:
    files = (path for root in ("platform", "features", "joiners", "trainer") for path in (ROOT / root).rglob("*.py"))
    return name == "DovetailError" or any(f"raise {name}(" in path.read_text(encoding="utf-8") for path in files)


def test_a_project_is_loaded(tmp_path: Path) -> None:
    project = load(ROOT)
    assert_type(project, ProjectClient)
    assert isinstance(project, sdk.Project)
    (tmp_path / "dovetail.toml").write_text("[nonsense]\n", encoding="utf-8")
    with pytest.raises(sdk.DovetailError, match="nonsense"):
        load(tmp_path)


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    door: Any = sdk
    with pytest.raises(AttributeError, match="no attribute 'lod'; it has Config"):
        _ = door.lod


def test_the_version_is_the_one_that_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert sdk.__version__ == declared


def test_importing_it_loads_no_engine() -> None:
    """In a process of its own; what is asked of it is then imported, and works."""
    program = """
import sys
import dovetail.sdk
heavy = {"duckdb", "numba", "pyarrow", "numpy", "faust", "sqlalchemy", "sqlglot", "pydantic"} & set(sys.modules)
assert not heavy, heavy
from dovetail.sdk import *
assert callable(load)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
