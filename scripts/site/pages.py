"""The source of the site: the repository's Markdown where it stands, and the pages that are made from the code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scripts.site.command_reference import command_page
from scripts.site.configuration_reference import configuration_page
from scripts.site.contents import GENERATED, navigation
from scripts.site.http_reference import http_page
from scripts.site.notebooks import notebook_page
from scripts.site.python_reference import python_page
from scripts.site.sql_reference import sql_page

__all__ = ["MADE", "put_together"]

#: Who makes which page.
MADE: Mapping[str, Callable[[], str]] = dict(
    zip(GENERATED, (command_page, configuration_page, sql_page, http_page, python_page), strict=True)
)
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_FEATURES = ["content.code.copy", "navigation.footer", "navigation.sections", "navigation.top", "search.highlight"]
#: Folders of documents beside the Markdown files of the repository's root.
_FOLDERS = ("docs", "deploy")


def put_together(repository: Path, folder: Path) -> None:
    """Write the pages below ``folder/pages`` and the configuration to ``folder/zensical.toml``.

    Raises:
        ValueError: a page that has a place in the contents is not there.
    """
    pages = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    pages.mkdir(parents=True)
    markdown = [*repository.glob("*.md"), *(path for each in _FOLDERS for path in (repository / each).rglob("*.md"))]
    for path in markdown:
        _write(pages / path.relative_to(repository), _linked(path, repository))
    for each in _FOLDERS:
        for path in (repository / each).rglob("*.*"):
            if path.suffix in (".png", ".svg"):
                _copy(path, pages / path.relative_to(repository))
    for path in sorted((repository / "docs" / "notebooks").glob("*.py")):
        page = notebook_page(path.name, path.read_text(encoding="utf-8"))
        _write(pages / "docs" / "notebooks" / f"{path.stem}.md", page)
    _write(pages / "LICENSE.md", f"# License\n\n```text\n{(repository / 'LICENSE').read_text(encoding='utf-8')}```\n")
    _write(pages / "docs/decisions/index.md", _decisions(repository / "docs" / "decisions"))
    for name, make in MADE.items():
        _write(pages / name, make())
    there = [path.relative_to(pages).as_posix() for path in pages.rglob("*.md")]
    titles = {name: _title(pages / name) for name in there} | GENERATED
    # The front page of a folder is called index; README.md is the repository's.
    (pages / "README.md").rename(pages / "index.md")
    _write(folder / "zensical.toml", _configuration(navigation(there), titles))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _title(path: Path) -> str:
    found = _TITLE.search(path.read_text(encoding="utf-8"))
    return found[1].replace("`", "") if found else path.stem


def _decisions(folder: Path) -> str:
    lines = [f"- [{_title(path)}]({path.name})" for path in sorted(folder.glob("*.md"))]
    return (
        "# Decisions\n\nWhat a newcomer would question, and why it is so: half a page each.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _linked(path: Path, repository: Path) -> str:
    """The text of a page, whose links to folders and files without a suffix lead to the pages of them."""

    def there(found: re.Match[str]) -> str:
        link, place = found[1], found[2] or ""
        if ":" in link:
            return found[0]
        target = path.parent / link
        if target.is_dir():
            return f"{link.rstrip('/')}/index.md{place}"
        if target == repository / "LICENSE":
            return f"{link}.md"
        if target.resolve() == repository / "README.md":
            return f"{link.removesuffix('README.md')}index.md{place}"
        return found[0]

    return _LINK.sub(there, path.read_text(encoding="utf-8"))


def _configuration(sections: Sequence[tuple[str, Sequence[str]]], titles: Mapping[str, str]) -> str:
    """The configuration of the site; it loads no font and no script from elsewhere."""
    lines = []
    for name, pages in sections:
        listed = [f"{{ {json.dumps(titles[page])} = {json.dumps(_file(page))} }}" for page in pages]
        if pages == ["README.md"]:
            lines.append(f'  {{ {json.dumps(name)} = "index.md" }},')
        elif listed:
            lines.append(f"  {{ {json.dumps(name)} = [{', '.join(listed)}] }},")
    return "\n".join(
        (
            "[project]",
            'site_name = "Dovetail"',
            'docs_dir = "pages"',
            'site_dir = "site"',
            "use_directory_urls = false",
            "nav = [",
            *lines,
            "]",
            "[project.theme]",
            "font = false",
            f"features = {json.dumps(_FEATURES)}",
            "[[project.theme.palette]]",
            'media = "(prefers-color-scheme: light)"',
            'scheme = "default"',
            "[[project.theme.palette]]",
            'media = "(prefers-color-scheme: dark)"',
            'scheme = "slate"',
            "[project.markdown_extensions]",
            "tables = {}",
            "toc.permalink = true",
            "pymdownx.highlight.pygments_lang_class = true",
            "pymdownx.superfences = {}",
            "",
        )
    )


def _file(page: str) -> str:
    return "index.md" if page == "README.md" else page
