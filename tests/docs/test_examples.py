"""Every fenced example of every page is run by a test of the page, or at least read by what would take it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dovetail.features import load
from dovetail.platform.config.load import Config
from tests.command_lines import parsed
from tests.docs.test_readme import DOCUMENTS
from tests.places import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted([*DOCUMENTS, *(ROOT / "deploy").rglob("*.md")])
#: Programs that pages call beside ``dovetail``.
OTHERS = {
    *(
        "bash",
        "cat",
        "cp",
        "curl",
        "docker",
        "echo",
        "export",
        "faust",
        "git",
        "helm",
        "kubectl",
        "make",
        "mkdir",
        "pip",
    ),
    *("pg_isready", "printf", "pytest", "python", "python3", "scripts/services", "systemctl", "useradd"),
}


#: What examples say of label streams that this repository's project does not have.
BESIDE = {"labels": {"streams": {"order": {"values": {"amount": "sum"}}}}}


def blocks(language: str) -> list[Any]:
    """Each block of a language; its page is in its name."""
    found = []
    for page in PAGES:
        for number, (name, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
            if name == language:
                found.append(pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, table by table."""
    both = dict(base)
    for name, value in over.items():
        below = both.get(name)
        both[name] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return both


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block: lines behind ``$``, or all where none has one."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    whole = ""
    for line in lines:
        whole = f"{whole}\n{line}" if whole else line
        try:
            words = shlex.split(whole, comments=True)
        except ValueError:
            continue  # a quotation that goes on
        whole = ""
        while words:
            ends = next((at for at, word in enumerate(words) if word in ("|", "&&", "&", ";")), len(words))
            yield [word for word in words[:ends] if word]
            words = words[ends + 1 :]


def test_each_block_is_of_a_language_that_a_test_knows() -> None:
    found = {name for page in PAGES for name, _ in _BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert found <= {"", "console", "json", "python", "sh", "sql", "text", "toml"}


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_are_taken(text: str) -> None:
    """As part of this repository's dovetail.toml."""
    ours = merged(tomllib.loads((ROOT / "dovetail.toml").read_text(encoding="utf-8")), BESIDE)
    Config.model_validate(merged(ours, tomllib.loads(text)))


@pytest.mark.parametrize("text", blocks("json"))
def test_messages_are_json(text: str) -> None:
    for line in [text] if text.lstrip().startswith(("{\n", "[\n")) or "\n" in text.strip() else text.splitlines():
        json.loads(line)


@pytest.mark.parametrize("text", [*blocks("console"), *blocks("sh")])
def test_commands_exist_with_their_options(text: str) -> None:
    for words in commands(text):
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
        ends = next((at for at, word in enumerate(words) if re.match(r"\d?[<>]", word)), len(words))
        if not words:
            continue
        program, *arguments = words[:ends]
        program = program.removeprefix(".venv/bin/").removeprefix("/opt/dovetail/bin/")
        if program != "dovetail":
            assert program in OTHERS, words
        else:
            parsed(arguments)


@pytest.mark.parametrize("text", blocks("sql"))
def test_queries_are_duckdbs(text: str) -> None:
    """What they mean is tested page by page, with each aggregate of its table in the place of ``value_below``."""
    assert len(duckdb.extract_statements(text.replace("value_below", "count(*)"))) >= 1


def test_the_view_of_the_readme_is_one(tmp_path: Path) -> None:
    (view,) = [text for name, text in _BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if name == "sql"]
    shutil.copy(ROOT / "dovetail.toml", tmp_path)
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    (tmp_path / "sql" / "of_the_readme.sql").write_text(view, encoding="utf-8")
    aggregates = load(tmp_path).stream_views["of_the_readme"].aggregates
    assert [aggregate.output for aggregate in aggregates] == ["clicks_1h", "avg_price_7d"]
