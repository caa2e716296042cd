"""pyproject.toml says truly what Dovetail is built on: what is imported is declared, bounded and locked."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from scripts.bounds import lowest
from tests.architecture import SOURCE_ROOTS, imports_of
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What more than the core needs is in one of these.
EXTRAS = ("postgresql", "redis", "plots", "api", "console", "torch", "onnx", "otel", "spark", "lake")
#: Declared without being imported, and why.
NOT_IMPORTED = {"cramjam": "aiokafka reads and writes snappy, lz4 and zstd with it"}
#: What tests of an extra import where it is installed, in an environment of its own.
APART = ("spark",)
#: Modules of peers that are not installed here and have another name than their distribution.
PEERS = {"pyflink": "apache-flink"}
#: Dovetail reaches into these, or proves what they mean: a newer one may differ without being wrong. PySpark warns of a
#: newer pandas than it knows.
BOUNDED_ABOVE = {"aiokafka", "duckdb", "faust-streaming", "mode-streaming", "pandas", "sqlglot"}
#: The folders in which programs of this checkout look for modules of their own; "" is where a relative import begins.
OWN = {"", "dovetail", "tests", "scripts", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}


def declared(*extras: str) -> dict[NormalizedName, Requirement]:
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, texts)}


@cache
def imported(folders: tuple[str, ...]) -> dict[NormalizedName, str]:
    """By distribution, a file that imports from it."""
    found: dict[NormalizedName, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for at in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            module = at.target.partition(".")[0]
            if module not in sys.stdlib_module_names and module not in OWN:
                found[distribution(module)] = f"{path.relative_to(ROOT)}:{at.line}"
    return found


def distribution(module: str) -> NormalizedName:
    """Who provides a module, one that is declared where several do; its own name where nobody does who is installed."""
    names = [canonicalize_name(name) for name in providers().get(module, [PEERS.get(module, module)])]
    return next((name for name in names if name in declared(*EXTRAS, "dev")), names[0])


@cache
def providers() -> dict[str, list[str]]:
    return dict(packages_distributions())


def test_what_dovetail_imports_is_declared() -> None:
    found = imported(SOURCE_ROOTS)
    undeclared = {name: where for name, where in found.items() if name not in declared(*EXTRAS)}
    assert not undeclared
    lazily = {Path(where.partition(":")[0]) for name, where in found.items() if name not in declared()}
    rooms = ("api", "console", "lake", "onnx", "redis", "spark", "torch", "tracing")
    homes = {next((part for part in path.parts if part in rooms), path.name) for path in lazily}
    assert homes <= {"database.py", "plots.py", *rooms}, "an extra is imported where it is asked for, and nowhere else"


def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    assert set(declared()) - set(imported(SOURCE_ROOTS)) == set(NOT_IMPORTED)


def test_what_tests_scripts_and_benchmarks_import_is_declared() -> None:
    found = imported(("tests", "scripts", "benchmarks"))
    known = {*declared("dev", "bench", *APART), *pinned_for_peers()}
    assert not {name: where for name, where in found.items() if name not in known}


def test_what_a_peer_imports_is_in_its_requirements() -> None:
    found = imported(("benchmarks/peers",))
    undeclared = {name: where for name, where in found.items() if name not in declared("dev", "bench", *APART)}
    assert undeclared, "peers that nothing else here needs have environments of their own"
    assert not {name: where for name, where in undeclared.items() if name not in pinned_for_peers()}


def pinned_for_peers() -> set[NormalizedName]:
    """The distributions that environments of peers are made of, each in one version."""
    lines = [
        line
        for path in (ROOT / "benchmarks" / "peers" / "requirements").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.\[\]-]+==[0-9a-z.]+", line)] == []
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_bounds_are_given() -> None:
    for name, requirement in declared(*EXTRAS).items():
        operators = {part.operator for part in requirement.specifier}
        assert ">=" in operators, f"{name} has no lower bound"
        assert ("<" in operators) == (name in BOUNDED_ABOVE), f"{name}: {requirement.specifier}"


def test_the_lock_keeps_the_bounds_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line)] == []
    locked = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for name, requirement in declared("dev").items():
        assert requirement.specifier.contains(locked[name]), f"{name}=={locked[name]} is not {requirement.specifier}"


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    assert lowest(["a-b>=1.2,<2", "c[d]>=3"]) == ["a-b==1.2", "c[d]==3"]
    with pytest.raises(SystemExit, match="e<2 has no lower bound"):
        lowest(["e<2"])
    assert len(lowest(PROJECT["dependencies"])) == len(PROJECT["dependencies"])
