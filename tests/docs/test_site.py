"""The documentation site without its generator: reference pages have all there is, and each link leads somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail import sdk
from dovetail.features.language.calls import MACROS_OF_AGGREGATES
from dovetail.platform.config.load import Config
from scripts.site.command_reference import command_page, commands
from scripts.site.configuration_reference import configuration_page, sections
from scripts.site.contents import GENERATED, navigation
from scripts.site.http_reference import openapi
from scripts.site.links import broken_links
from scripts.site.pages import put_together
from scripts.site.tables import code, table
from tests.places import ROOT


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the site."""
    folder: Path = tmp_path_factory.mktemp("site") / "documents"
    put_together(ROOT, folder)
    return folder


def page(source: Path, name: str) -> str:
    return (source / "pages" / name).read_text(encoding="utf-8")


def test_every_command_and_option_has_a_line() -> None:
    text = command_page()
    names = [name for name, _ in commands()]
    assert len(names) > 25
    assert "model list" in names
    assert [name for name in names if f"\n## dovetail {name}\n" not in text] == []
    for _, command in commands():
        for parameter in command.params:
            assert all(option in text for option in parameter.opts)
    assert "| `--port PORT` |  | Port; 0 takes a free one and says which. |" in text


def test_every_key_of_the_configuration_has_a_line() -> None:
    text = configuration_page()
    found = dict(sections())
    assert {"storage", "labels.streams.NAME", "model.inputs[]", "rekeyed.NAME", "api"} <= set(found)
    for model in found.values():
        for name, field in model.model_fields.items():
            assert field.exclude or f"`{name}`" in text or f"[{name}" in text or f".{name}" in text, name
    assert '| `timeout` | duration | `"30s"` | A Redis that says nothing for this long has failed the call. |' in text
    assert "| `port` | whole number | `8080` |" in text, "its comment stands in another class"
    assert not re.search(r"<class|object at|Annotated|PydanticUndefined", text)


def test_defaults_are_written_as_the_file_would_have_them() -> None:
    """A section that has a default for every key is read from the page as it is by the class."""
    text = configuration_page()
    for name in ("storage", "worker", "archive", "redis"):
        section = text.partition(f"\n## [{name}]\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| [^|]* \| `([^|]*)` \|", section, re.MULTILINE)
        read: dict[str, Any] = tomllib.loads("\n".join(f"{key} = {value}" for key, value in rows))
        kind = dict(sections())[name]
        assert kind.model_validate(read) == kind()


def test_aggregates_macros_and_refusals_are_listed(source: Path) -> None:
    text = page(source, "reference/sql.md")
    assert all(f"`{macro}(" in text for macro in MACROS_OF_AGGREGATES)
    assert "| `arg_max` | `argmax`, `max_by` |" in text
    assert "| `bool_or` | is the greatest of booleans | write max(x) |" in text


def test_every_call_and_name_is_described(source: Path) -> None:
    text = page(source, "reference/http.md")
    described = openapi()
    assert described["paths"]
    for path, methods in described["paths"].items():
        for method in methods:
            assert f"\n## {method.upper()} {path}\n" in text
    assert "| `user_id` | string | required |" in text
    text = page(source, "reference/python.md")
    assert [
        name for name in sdk.__all__ if not name.startswith("__") and not re.search(rf"^##+ {name}$", text, re.M)
    ] == []
    assert ":class:" not in text
    assert "### ProjectClient.samples" in text


def test_each_page_stands_once(source: Path) -> None:
    settings = tomllib.loads((source / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed: list[str] = []
    for section in settings["nav"]:
        for pages in section.values():
            listed += [pages] if isinstance(pages, str) else [path for each in pages for path in each.values()]
    there = {path.relative_to(source / "pages").as_posix() for path in (source / "pages").rglob("*.md")}
    assert sorted(listed) == sorted(there)
    assert listed[:2] == ["index.md", "docs/your-first-samples.md"]
    assert set(GENERATED) <= there


def test_a_page_without_a_place_is_a_how_to_and_one_that_is_gone_is_named() -> None:
    pages = [name for _, listed in navigation([*_pages(), "docs/new.md"]) for name in listed]
    assert "docs/new.md" in pages
    with pytest.raises(ValueError, match=r"a place for docs/types\.md, which is not there"):
        navigation(name for name in _pages() if name != "docs/types.md")


def _pages() -> Iterator[str]:
    yield from ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE.md", "deploy/README.md")
    yield from (path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    yield from GENERATED


def test_links_of_the_pages_lead_to_pages(source: Path) -> None:
    missing = []
    for path in (source / "pages").rglob("*.md"):
        for link in re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            target = (path.parent / link).resolve()
            if not target.is_file():
                missing.append(f"{path.relative_to(source)}: {link}")
    assert missing == []


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="here">x</h1>')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<a href="../b.html#here">x</a><a href="mailto:x@y">x</a>')
    good = '<a href="b.html#here">x</a><a href="folder/">x</a><a href="https://x/">x</a><a id="top" href="#top">x</a>'
    (tmp_path / "a.html").write_text(good)
    assert broken_links(tmp_path) == []
    bad = '<a href="c.html">x</a><a href="b.html#there">x</a><a href="#gone">x</a><img src="no.png">'
    bad += '<script src="//far/x.js">'
    (tmp_path / "a.html").write_text(bad)
    assert sorted(broken_links(tmp_path)) == sorted(
        f"a.html: {link}" for link in ("//far/x.js", "c.html", "b.html#there", "#gone", "no.png")
    )


def test_a_cell_stays_in_its_cell() -> None:
    assert table(("a", "b"), [(code("x | y"), code("a`b"))]) == "| a | b |\n| --- | --- |\n| `x \\| y` | ``a`b`` |\n"


def test_the_configuration_has_no_section_twice() -> None:
    names = [name for name, _ in sections(Config)]
    assert len(names) == len(set(names))
