"""A library that is an extra, and is not there, is asked for by the extra's name; any other error is itself."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import import_module

import pytest

from dovetail.cli.console import console_of
from dovetail.platform.errors import ConfigError
from dovetail.platform.extras import DISTRIBUTION, needs_extra
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.online_stores import open_online_store
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_distribution_is_called_as_it_is_said() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["scripts"] == {"dovetail": "dovetail.cli:main"}


def test_a_missing_library_names_its_extra_and_the_other_way() -> None:
    said = (
        r"^the HTTP API needs nowhere_to_be_found, which is not installed: "
        r"pip install 'dovetail-samples\[api\]', or do without$"
    )
    with pytest.raises(ConfigError, match=said), needs_extra("the HTTP API", "api", "or do without"):
        import_module("nowhere_to_be_found")


def test_a_missing_module_of_dovetail_is_no_missing_library() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"dovetail\.nowhere"), needs_extra("x", "api"):
        import_module("dovetail.nowhere")


def test_another_error_is_itself() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("x", "api"):
        _ = 1 / 0


@pytest.mark.parametrize("opened", [open_online_store, open_label_store])
def test_a_store_in_redis_asks_for_its_library(opened: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dovetail.platform.stores.redis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    assert callable(opened)
    with pytest.raises(ConfigError, match=r"^a store at redis:// needs redis.*\[redis\]'$"):
        opened("redis://127.0.0.1:1/0", "x")


def test_the_console_asks_for_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dovetail.console.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"^the console needs jinja2.*\[console\]'$"):
        console_of(None, None)  # type: ignore[arg-type]


def test_the_extra_of_all_has_what_a_worker_on_servers_uses() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert {"api", "console", "onnx", "plots", "postgresql", "redis"} <= named <= set(extras) - {"all", "bench", "dev"}


def test_what_is_said_to_be_installed_can_be() -> None:
    """Texts name the distribution, not the package, and extras that there are."""
    extras, wrong = set(PROJECT["optional-dependencies"]), []
    folders = ("platform", "features", "joiners", "trainer", "docs", "deploy", "tests", "scripts", "benchmarks")
    files = [path for each in folders for path in (ROOT / each).rglob("*") if path.suffix in (".md", ".py", ".toml")]
    for path in [*files, *ROOT.glob("*.md")]:
        for name, named in re.findall(
            r"(?<![\w.-])(dovetail(?:-samples)?)\[([a-z]\w*(?:,\w+)*)\]", path.read_text("utf-8")
        ):
            if name != DISTRIBUTION or not set(named.split(",")) <= extras:
                wrong.append(f"{path.relative_to(ROOT)}: {name}[{named}]")
    assert wrong == [], f"write {DISTRIBUTION}[EXTRA]"
