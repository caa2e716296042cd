"""The walls of the tree: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGES = ("platform", "features", "joiners", "trainer")
#: Modules of the platform that may know every package: where the parts are put together.
ASSEMBLY = ("app", "cli", "datasets", "demo", "jobs", "modelling", "reports", "storage")

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def inside(path: Path, *folders: str) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative.startswith(folder) for folder in folders)


def is_assembly(path: Path) -> bool:
    parts = path.relative_to(ROOT / "platform" / "dovetail" / "platform").with_suffix("").parts
    return parts[0] in ASSEMBLY


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    own = package_of(path)
    if own == "platform" and is_assembly(path):
        return
    allowed = {own, "platform"}
    crossing = {name for name in imports_of(path) if name.startswith("dovetail.") and name.split(".")[1] not in allowed}
    assert not crossing, f"{path.relative_to(ROOT)} imports {sorted(crossing)}"
    if own != "platform":
        upward = {
            name for name in imports_of(path) if name.startswith(tuple(f"dovetail.platform.{a}" for a in ASSEMBLY))
        }
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}, which assembles it"


#: Where a library may be imported; everywhere else it is a leak.
_FAUST = (
    "platform/dovetail/platform/transports/",
    "platform/dovetail/platform/runtime/runner.py",
    "platform/dovetail/app/worker.py",
)
HOMES = {
    "faust": _FAUST,
    "mode": _FAUST,
    "aiokafka": ("platform/dovetail/platform/transports/",),
    "duckdb": (
        "features/dovetail/features/batch/",
        "joiners/dovetail/joiners/batch/join.py",
        "joiners/dovetail/joiners/batch/attributed.py",
        "joiners/dovetail/joiners/batch/label_audit.py",
    ),
    "sqlalchemy": ("platform/dovetail/platform/stores/",),
    "sqlite3": ("platform/dovetail/platform/transports/",),
    "numba": (
        "features/dovetail/features/stream/",
        "features/dovetail/features/kernels/finish.py",
        "trainer/dovetail/trainer/",
        "joiners/dovetail/joiners/pairs.py",
    ),
    "redis": ("platform/dovetail/platform/stores/",),
}


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_stays_at_home(library: str) -> None:
    strays = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path))
        and not inside(path, *HOMES[library])
    ]
    assert not strays


def test_nothing_shadows_the_standard_library() -> None:
    assert not [package for package in PACKAGES if (ROOT / package / "__init__.py").exists()]
    assert not [package for package in PACKAGES if (ROOT / package / "dovetail" / "__init__.py").exists()]
